-- ARGV: 'owner' or '', an owner, 'session' or '', a session. Returns records, in no order.
local sets = {}
if ARGV[1] ~= '' then sets[#sets + 1] = owner_key(ARGV[2]) end
if ARGV[3] ~= '' then sets[#sets + 1] = prefix .. 'session:' .. ARGV[4] end
if #sets == 0 then return records(call('ZREVRANGE', prefix .. 'age', 0, -1)) end
return records(call('ZINTER', #sets, unpack(sets)))
