-- ARGV: ids. Returns the data of those that still exist.
return records(ARGV)[1]
