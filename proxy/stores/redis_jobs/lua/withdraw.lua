-- ARGV: owner, idempotency key, id. The kick-off claims the key no longer.
call('HDEL', prefix .. 'claims:' .. claim_key(ARGV[1], ARGV[2]), ARGV[3])
