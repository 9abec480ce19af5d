-- ARGV: stage, the latest moment. Returns records in the order of their moments.
return records(call('ZRANGEBYSCORE', prefix .. 'stage:' .. ARGV[1], '-inf', ARGV[2]))
