-- ARGV: owner, idempotency key. Returns the data of the job, or nothing.
local id = call('HGET', prefix .. 'keys', claim_key(ARGV[1], ARGV[2]))
return id and call('HGET', prefix .. 'job:' .. id, 'data')
