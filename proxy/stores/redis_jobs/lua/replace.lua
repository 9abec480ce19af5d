-- ARGV: id, stored version, new version, data, entries, whether the body is over (1), whether the job
-- is abandoned now (1), the replica whose lease is needed or '', and the keys that the job gets: each
-- an owner, NUL and a key.
-- Returns 1 if the record was replaced, 0 if its version differs, -1 without the lease, -3 if another
-- job has one of the keys.
local id, expected, version, data, entries, over, abandoned, replica = unpack(ARGV)
local stored = call('HMGET', prefix .. 'job:' .. id, 'version', 'entries')
if stored[1] ~= expected then return 0 end
if replica ~= '' and not has_lease(replica) then return -1 end
for i = 9, #ARGV do
  local holder = call('HGET', prefix .. 'keys', ARGV[i])
  if holder and holder ~= id then return -3 end
end
if over == '1' then call('DEL', prefix .. 'body:' .. id) end
swap(id, stored[2], version, data, entries)
if abandoned == '1' then
  local owners = cjson.decode(entries).owners
  call('ZADD', prefix .. 'holds', now(), cjson.encode({id, unpack(owners)}))
end
return 1
