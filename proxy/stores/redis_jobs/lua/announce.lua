-- ARGV: owner, idempotency key, id, replica, seconds. Records that the kick-off claims the key.
local claims = prefix .. 'claims:' .. claim_key(ARGV[1], ARGV[2])
call('HSET', claims, ARGV[3], ARGV[4])
call('EXPIRE', claims, ARGV[5])
