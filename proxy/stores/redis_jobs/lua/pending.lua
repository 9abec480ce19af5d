-- ARGV: endpoint, the latest moment, limit. Returns records in the order of their first due message.
local key = prefix .. 'outbox:' .. ARGV[1]
return records(call('ZRANGEBYSCORE', key, '-inf', ARGV[2], 'LIMIT', 0, ARGV[3]))
