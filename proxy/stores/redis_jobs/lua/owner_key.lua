-- ARGV: a new key. Returns the one that was set first.
call('SETNX', prefix .. 'owner_key', ARGV[1])
return call('GET', prefix .. 'owner_key')
