-- ARGV: id, version, data, entries, body, and the bounds, if there are any: unfinished and on record
-- per caller, waiting and on record of all, slots, seconds of a hold.
-- Returns the data of the job that has the id or the idempotency key already; 1 if the new one was
-- stored; 0 if it exceeds the bounds; -1 if other kick-offs claim its idempotency key.
local id, version, data, entries, body = unpack(ARGV)
local e = cjson.decode(entries)

local known = call('HGET', prefix .. 'job:' .. id, 'data')
if known then return known end
if e.key then
  for _, owner in ipairs(e.owners) do
    local other = call('HGET', prefix .. 'keys', claim_key(owner, e.key))
    if other then return call('HGET', prefix .. 'job:' .. other, 'data') end
  end
  for _, owner in ipairs(e.owners) do
    for _, other in ipairs(claimants(owner, e.key)) do
      if other ~= id then return -1 end
    end
  end
end

if #ARGV > 5 then
  local per_caller, records_per_caller = tonumber(ARGV[6]), tonumber(ARGV[7])
  local queued, total, slots = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
  local holds = held(tonumber(ARGV[11]))
  local free = math.max(0, slots - call('SCARD', prefix .. 'slots') - #holds)
  if count_live(e.owners) + held_of(holds, e.owners) >= per_caller
    or count_of(e.owners) >= records_per_caller
    or call('ZCARD', prefix .. 'waiting') >= queued + free
    or call('ZCARD', prefix .. 'age') >= total then
    return 0
  end
end

call('HSET', prefix .. 'job:' .. id, 'version', version, 'data', data, 'entries', entries)
call('SET', prefix .. 'body:' .. id, body)
link(id, e)
call('PUBLISH', channel, id)
return 1
