-- ARGV: id, version, data, entries, body or '', the Unix second after which nothing is stored, and
-- the bounds, if there are any: unfinished and on record per caller, waiting and on record of all,
-- slots, seconds of a hold; then, if the job may get a slot at once: slots per caller (0: no limit),
-- replica, and the version, data and entries of the job with the slot.
-- Returns the data of the job that has the id or the idempotency key already; 2 if the new one was
-- stored with a slot, 1 if it was stored without; 0 if it exceeds the bounds; -1 if other kick-offs
-- claim its idempotency key; the time of the store in a list if it is too late.
local id, version, data, entries, body = unpack(ARGV, 1, 5)
local e = cjson.decode(entries)

-- A server that was stopped, or busy, executes the commands of clients that have left. The caller of
-- this one has got 503 by then, and sends its export again.
local time = now()
if time > tonumber(ARGV[6]) then return {string.format('%.6f', time)} end

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

if #ARGV > 6 then
  local per_caller, records_per_caller = tonumber(ARGV[7]), tonumber(ARGV[8])
  local queued, total, slots = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
  local holds = held(tonumber(ARGV[12]))
  local free = math.max(0, slots - call('SCARD', prefix .. 'slots') - #holds)
  if count_live(e.owners) + held_of(holds, e.owners) >= per_caller
    or count_of(e.owners) >= records_per_caller
    or call('ZCARD', prefix .. 'waiting') >= queued + free
    or call('ZCARD', prefix .. 'age') >= total then
    return 0
  end
end

-- Whether a slot is free for the job. While others wait, `claim` finds whose turn it is.
local function may_start()
  if call('ZCARD', prefix .. 'waiting') > 0 or not has_lease(ARGV[14]) then return false end
  local per_caller = tonumber(ARGV[13])
  local counts = taken(tonumber(ARGV[11]), per_caller, tonumber(ARGV[12]))
  if not counts then return false end
  for _, owner in ipairs(e.owners) do
    if per_caller > 0 and (counts[owner] or 0) >= per_caller then return false end
  end
  return true
end

local outcome = 1
if #ARGV > 12 and may_start() then
  outcome, version, data, entries = 2, unpack(ARGV, 15, 17)
  e = cjson.decode(entries)
  note_start(e)
end
call('HSET', prefix .. 'job:' .. id, 'version', version, 'data', data, 'entries', entries)
if body ~= '' then call('SET', prefix .. 'body:' .. id, body) end
link(id, e)
call('PUBLISH', channel, id)
return outcome
