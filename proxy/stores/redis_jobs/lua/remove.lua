-- ARGV: id, stored version. Returns 1 if the record was removed, 0 if its version differs.
local id, expected = unpack(ARGV)
local stored = call('HMGET', prefix .. 'job:' .. id, 'version', 'entries')
if stored[1] ~= expected then return 0 end
unlink(id, cjson.decode(stored[2]))
call('DEL', prefix .. 'job:' .. id, prefix .. 'body:' .. id)
call('PUBLISH', channel, id)
return 1
