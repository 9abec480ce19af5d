-- Returns, of each replica with a lease: its id, the second of its last renewal, its report.
local found = {}
local known = call('ZRANGE', prefix .. 'replicas', 0, -1, 'WITHSCORES')
for i = 1, #known, 2 do
  local report = call('GET', prefix .. 'lease:' .. known[i])
  if report then found[#found + 1] = {known[i], known[i + 1], report} end
end
return found
