-- ARGV: replica, milliseconds of the lease, what the replica reports, the owner key or '', and the
-- fields of the cluster's identity. A store that has lost its data gets key and identity back.
-- Returns the owner key, or nothing if this replica has not asked for it. A replica with another key
-- gets no lease: it knows none of the callers, and others take over its jobs.
local replica, lease, report, owner_key = unpack(ARGV, 1, 4)
-- This command frees memory: see `swap`.
call('ZREMRANGEBYSCORE', prefix .. 'replicas', '-inf', now() - 3600)
if owner_key ~= '' then
  call('SETNX', prefix .. 'owner_key', owner_key)
  local found = call('GET', prefix .. 'owner_key')
  if found ~= owner_key then return found end
end
call('SET', prefix .. 'lease:' .. replica, report, 'PX', lease)
call('ZADD', prefix .. 'replicas', now(), replica)
if #ARGV > 4 and call('EXISTS', prefix .. 'cluster') == 0 then
  call('HSET', prefix .. 'cluster', unpack(ARGV, 5))
end
return owner_key ~= '' and owner_key
