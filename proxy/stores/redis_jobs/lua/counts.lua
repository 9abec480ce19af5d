-- ARGV: owners. Returns the numbers of their unfinished jobs, of their records, and of all records.
return {count_of('live:', ARGV), count_of('owner:', ARGV), call('ZCARD', prefix .. 'age')}
