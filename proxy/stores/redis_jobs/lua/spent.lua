-- ARGV: limit, 'all' or 'owners', owners. Returns records in the order in which they may be removed.
local limit = tonumber(ARGV[1])
local ids = {}

if limit > 0 and ARGV[2] == 'all' then
  for _, rank in ipairs({'refused', 'ended'}) do
    if #ids < limit then
      for _, id in ipairs(call('ZRANGE', prefix .. 'spent:' .. rank, 0, limit - #ids - 1)) do
        ids[#ids + 1] = id
      end
    end
  end
elseif limit > 0 then
  local mine = ids_of({unpack(ARGV, 3)})
  for _, rank in ipairs({'refused', 'ended'}) do
    local found = {}
    slices(mine, function(part)
      for i, ended in ipairs(call('ZMSCORE', prefix .. 'spent:' .. rank, unpack(part))) do
        if ended then found[#found + 1] = {tonumber(ended), part[i]} end
      end
    end)
    table.sort(found, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
    for _, each in ipairs(found) do
      if #ids < limit then ids[#ids + 1] = each[2] end
    end
  end
end
return records(ids)
