-- ARGV: replica. Ends its lease, and reports its jobs, so that others take them over at once.
local replica = ARGV[1]
call('DEL', prefix .. 'lease:' .. replica)
call('ZREM', prefix .. 'replicas', replica)
local active = call('HGETALL', prefix .. 'active')
for i = 1, #active, 2 do
  if cjson.decode(active[i + 1])[1] == replica then call('PUBLISH', channel, active[i]) end
end
