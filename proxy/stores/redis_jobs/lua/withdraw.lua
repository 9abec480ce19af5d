-- ARGV: owner, idempotency key and id of each kick-off that claims the key no longer.
for i = 1, #ARGV, 3 do
  call('HDEL', prefix .. 'claims:' .. claim_key(ARGV[i], ARGV[i + 1]), ARGV[i + 2])
end
