-- ARGV: seconds of a hold, owners. Returns the numbers of jobs with a slot and without, and of slots
-- that are held, of all and for the owners.
local holds = held(tonumber(ARGV[1]))
return {
  call('SCARD', prefix .. 'slots'),
  call('ZCARD', prefix .. 'waiting'),
  #holds,
  held_of(holds, {unpack(ARGV, 2)}),
}
