-- What every script begins with. KEYS: the prefix of all keys, and the channel of the feed.
--
--   job:<id>         hash: data, version, and entries: what the indexes hold of the job, as JSON
--   body:<id>        the request body
--   age              sorted set: job ids by creation
--   owner:<owner>    sorted set: the caller's job ids; 1 for those that have not ended, 0 for others
--   keys             hash: owner, NUL, idempotency key -> job id
--   claims:<…>       hash: ids of kick-offs that claim owner, NUL, idempotency key -> replica
--   session:<id>     sorted set: job ids of a restore session. Sorted sets of few members are compact,
--                    before Redis 7.2 unlike sets
--   newest:<set>     sorted set: the job ids of an owner or session by creation; only of those whose
--                    list has been read within the last hour
--   stage:<stage>    sorted set: job ids by the moment of their stage
--   spent:<rank>     sorted set: ids of removable records by their end; refused ones go before ended
--   outbox:<endpoint> sorted set: job ids by the first due message for a webhook endpoint
--   active           hash: id of an unfinished job that is not suspended -> JSON [replica, owner, …];
--                    UNACCEPTED is the last owner if VB365 never accepted the caller
--   waiting          sorted set: ids of jobs without a slot by arrival; slots: set: of those with one
--   holds            sorted set: JSON [id, owner, …] of abandoned jobs by that time
--   started          sorted set: owners by their last start; counters: hash of the two sequences
--   lease:<replica>  what the replica reported, until its lease ends; replicas: by last renewal
local prefix, channel = KEYS[1], KEYS[2]
local call = redis.call

-- Commands take no more arguments than Lua's stack holds.
local SLICE = 1000
-- Records in one reply. The ids of the others are returned, and they are read in further calls.
local RECORDS = 250

local function now()
  local time = call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local function slices(list, visit)
  for first = 1, #list, SLICE do
    local last = math.min(first + SLICE - 1, #list)
    visit({unpack(list, first, last)}, first - 1)
  end
end

local function has_lease(replica)
  return call('EXISTS', prefix .. 'lease:' .. replica) == 1
end

-- Stands for all callers that VB365 never accepted: they have one turn together, as in jobs/queue.py.
local UNACCEPTED = 'unaccepted'

-- The names under which a job takes turns.
local function turn_names(e)
  local names = {unpack(e.owners)}
  if e.unaccepted then names[#names + 1] = UNACCEPTED end
  return names
end

local function owner_key(owner) return prefix .. 'owner:' .. owner end

-- The ids of the owners' jobs, each once.
local function ids_of(owners)
  if #owners == 0 then return {} end
  local keys = {}
  for i, owner in ipairs(owners) do keys[i] = owner_key(owner) end
  return call('ZUNION', #keys, unpack(keys))
end

local function count_of(owners)
  if #owners == 1 then return call('ZCARD', owner_key(owners[1])) end
  return #ids_of(owners)
end

-- The number of their jobs that have not ended.
local function count_live(owners)
  if #owners == 1 then return call('ZCOUNT', owner_key(owners[1]), 1, 1) end
  local seen, count = {}, 0
  for _, owner in ipairs(owners) do
    for _, id in ipairs(call('ZRANGEBYSCORE', owner_key(owner), 1, 1)) do
      if not seen[id] then
        seen[id] = true
        count = count + 1
      end
    end
  end
  return count
end

-- Two lists: the data of the first records, and the ids of the others.
local function records(ids)
  local data, others = {}, {}
  for i, id in ipairs(ids) do
    if i > RECORDS then
      others[#others + 1] = id
    else
      local found = call('HGET', prefix .. 'job:' .. id, 'data')
      if found then data[#data + 1] = found end
    end
  end
  return {data, others}
end

local function claim_key(owner, key) return owner .. '\0' .. key end

-- The ids of the kick-offs that claim the key, at replicas that have a lease.
local function claimants(owner, key)
  local found, all = {}, call('HGETALL', prefix .. 'claims:' .. claim_key(owner, key))
  for i = 1, #all, 2 do
    if has_lease(all[i + 1]) then found[#found + 1] = all[i] end
  end
  return found
end

-- The sets of ids that are listed by creation, and of such a set the key of its ids in that order.
local function listed(e)
  local sets = {}
  for i, owner in ipairs(e.owners) do sets[i] = 'owner:' .. owner end
  if e.session then sets[#sets + 1] = 'session:' .. e.session end
  return sets
end

local function newest_key(set) return prefix .. 'newest:' .. set end

local function unlink(id, e)
  call('ZREM', prefix .. 'age', id)
  for _, set in ipairs(listed(e)) do call('ZREM', newest_key(set), id) end
  for _, owner in ipairs(e.owners) do
    call('ZREM', owner_key(owner), id)
    if e.key and call('HGET', prefix .. 'keys', claim_key(owner, e.key)) == id then
      call('HDEL', prefix .. 'keys', claim_key(owner, e.key))
    end
  end
  if e.session then call('ZREM', prefix .. 'session:' .. e.session, id) end
  if e.stage then call('ZREM', prefix .. 'stage:' .. e.stage, id) end
  if e.rank then call('ZREM', prefix .. 'spent:' .. e.rank, id) end
  for endpoint, _ in pairs(e.outbox or {}) do call('ZREM', prefix .. 'outbox:' .. endpoint, id) end
  if e.replica then call('HDEL', prefix .. 'active', id) end
  if e.waiting then call('ZREM', prefix .. 'waiting', id) end
  if e.slot then call('SREM', prefix .. 'slots', id) end
end

local function link(id, e)
  call('ZADD', prefix .. 'age', e.created, id)
  for _, set in ipairs(listed(e)) do
    if call('EXISTS', newest_key(set)) == 1 then call('ZADD', newest_key(set), e.created, id) end
  end
  for _, owner in ipairs(e.owners) do
    call('ZADD', owner_key(owner), e.live and 1 or 0, id)
    if e.key then call('HSET', prefix .. 'keys', claim_key(owner, e.key), id) end
  end
  if e.session then call('ZADD', prefix .. 'session:' .. e.session, 0, id) end
  if e.stage then call('ZADD', prefix .. 'stage:' .. e.stage, e.moment, id) end
  if e.rank then call('ZADD', prefix .. 'spent:' .. e.rank, e.ended, id) end
  for endpoint, due in pairs(e.outbox or {}) do call('ZADD', prefix .. 'outbox:' .. endpoint, due, id) end
  if e.replica then
    call('HSET', prefix .. 'active', id, cjson.encode({e.replica, unpack(turn_names(e))}))
  end
  if e.waiting then
    call('ZADD', prefix .. 'waiting', e.arrival or call('HINCRBY', prefix .. 'counters', 'arrivals', 1), id)
  end
  if e.slot then call('SADD', prefix .. 'slots', id) end
end

-- Replace the stored record, whose entries are `old`, and report it. Most changes are progress, which
-- no index shows. A job that goes on waiting keeps its place.
local function swap(id, old, version, data, new)
  -- A command that frees memory comes first: a full store then accepts the script as a whole. It
  -- refuses new jobs, not the progress and the end of those that it has accepted.
  call('HDEL', prefix .. 'job:' .. id, 'entries')
  if old ~= new then
    local before, after = cjson.decode(old), cjson.decode(new)
    if before.waiting and after.waiting then
      after.arrival = call('ZSCORE', prefix .. 'waiting', id)
    end
    unlink(id, before)
    link(id, after)
  end
  call('HSET', prefix .. 'job:' .. id, 'version', version, 'data', data, 'entries', new)
  call('PUBLISH', channel, id)
end

-- The slots that abandoned jobs hold: pairs of id and owners, without those of jobs that still have
-- their slot.
local function held(seconds)
  local found = {}
  for _, hold in ipairs(call('ZRANGEBYSCORE', prefix .. 'holds', '(' .. string.format('%.6f', now() - seconds), '+inf')) do
    local entry = cjson.decode(hold)
    if call('SISMEMBER', prefix .. 'slots', entry[1]) == 0 then found[#found + 1] = entry end
  end
  return found
end

-- How many of the slots are held for one of the owners.
local function held_of(holds, owners)
  local mine, count = {}, 0
  for _, owner in ipairs(owners) do mine[owner] = true end
  for _, hold in ipairs(holds) do
    for i = 2, #hold do
      if mine[hold[i]] then
        count = count + 1
        break
      end
    end
  end
  return count
end

-- How many slots each owner has, for which `per_caller` (0: no limit) is needed; nil if none of the
-- `total` is free.
local function taken(total, per_caller, hold)
  local slots, counts = call('SMEMBERS', prefix .. 'slots'), {}
  call('ZREMRANGEBYSCORE', prefix .. 'holds', '-inf', now() - hold)
  local holds = held(hold)
  if #slots + #holds >= total then return nil end
  if per_caller == 0 then return counts end
  local function count(entry)
    for i = 2, #entry do counts[entry[i]] = (counts[entry[i]] or 0) + 1 end
  end
  slices(slots, function(part)
    for _, entry in ipairs(call('HMGET', prefix .. 'active', unpack(part))) do
      if entry then count(cjson.decode(entry)) end
    end
  end)
  for _, entry in ipairs(holds) do count(entry) end
  return counts
end

-- Owners whose last start is remembered, as in jobs/queue.py.
local REMEMBERED = 10000

-- Note that the job has got a slot.
local function note_start(e)
  local count = call('HINCRBY', prefix .. 'counters', 'starts', 1)
  for _, name in ipairs(turn_names(e)) do call('ZADD', prefix .. 'started', count, name) end
  call('ZREMRANGEBYRANK', prefix .. 'started', 0, -1 - REMEMBERED)
end
