-- ARGV: owners. Returns the numbers of their unfinished jobs, of their records, and of all records.
return {count_live(ARGV), count_of(ARGV), call('ZCARD', prefix .. 'age')}
