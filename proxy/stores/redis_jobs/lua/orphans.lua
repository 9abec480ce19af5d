-- Returns the records of unfinished jobs, not suspended, whose replica has no lease.
local leases, ids = {}, {}
local active = call('HGETALL', prefix .. 'active')
for i = 1, #active, 2 do
  local replica = cjson.decode(active[i + 1])[1]
  if leases[replica] == nil then leases[replica] = has_lease(replica) end
  if not leases[replica] then ids[#ids + 1] = active[i] end
end
return records(ids)
