-- ARGV: owner, idempotency key. Returns the ids of the kick-offs that claim the key.
return claimants(ARGV[1], ARGV[2])
