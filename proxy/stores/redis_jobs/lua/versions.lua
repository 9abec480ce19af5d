-- ARGV: ids. Returns the version of each, nothing where there is no record.
local versions = {}
for i, id in ipairs(ARGV) do versions[i] = call('HGET', prefix .. 'job:' .. id, 'version') end
return versions
