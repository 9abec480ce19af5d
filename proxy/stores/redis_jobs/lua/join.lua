-- ARGV: the fields of an identity. Returns those of the cluster that the prefix belongs to: these, if
-- it belongs to none.
if call('EXISTS', prefix .. 'cluster') == 0 then call('HSET', prefix .. 'cluster', unpack(ARGV)) end
return call('HGETALL', prefix .. 'cluster')
