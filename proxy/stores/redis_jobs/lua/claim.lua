-- ARGV: id, stored version, new version, data, entries, replica, slots, slots per caller (0: no
-- limit), seconds of a hold.
-- Returns 1 if the job was claimed, 0 if its version differs, -1 without the lease, -2 if no slot is
-- free or it is another job's turn, which is then reported on the feed: its replica may try.
local id, expected, version, data, entries, replica = unpack(ARGV, 1, 6)
local total, per_caller, hold = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])

-- The moment of the caller's last turn, the latest over its owners, and the same without the turns
-- of others that it shares; nil if it may not start a job.
local function last_start(entry, counts, starts)
  local last, own = 0, 0
  for i = 2, #entry do
    local owner = entry[i]
    if not starts[owner] then
      starts[owner] = tonumber(call('ZSCORE', prefix .. 'started', owner) or 0)
    end
    last = math.max(last, starts[owner])
    if owner ~= UNACCEPTED then
      if per_caller > 0 and (counts[owner] or 0) >= per_caller then return nil end
      own = math.max(own, starts[owner])
    end
  end
  return last, own
end

-- The job whose turn it is: of the caller whose last start is longest ago, the one that waits longest.
-- A job whose replica has no lease is left out: nobody can start it. Of jobs with the same replica and
-- owners only the first is looked at.
local function first(counts)
  local found, lowest, lowest_own, seen, leases, starts = nil, nil, nil, {}, {}, {}
  local from, count, size = 0, call('ZCARD', prefix .. 'waiting'), 16
  while from < count do
    local ids = call('ZRANGE', prefix .. 'waiting', from, from + size - 1)
    from, size = from + size, SLICE  -- the first few are often enough
    for i, raw in ipairs(call('HMGET', prefix .. 'active', unpack(ids))) do
      if ids[i] == id or not seen[raw] then
        seen[raw] = ids[i] ~= id
        local entry = cjson.decode(raw)
        if leases[entry[1]] == nil then leases[entry[1]] = has_lease(entry[1]) end
        local last, own
        if ids[i] == id or leases[entry[1]] then last, own = last_start(entry, counts, starts) end
        if last and (not lowest or last < lowest or (last == lowest and own < lowest_own)) then
          found, lowest, lowest_own = ids[i], last, own
          if last == 0 then return found end
        end
      end
    end
  end
  return found
end

local stored = call('HMGET', prefix .. 'job:' .. id, 'version', 'entries')
if stored[1] ~= expected then return 0 end
if not has_lease(replica) then return -1 end
if call('SISMEMBER', prefix .. 'slots', id) == 0 then
  local counts = taken(total, per_caller, hold)
  if not counts then return -2 end
  local turn = first(counts)
  if turn ~= id then
    if turn then call('PUBLISH', channel, turn) end
    return -2
  end
  swap(id, stored[2], version, data, entries)
  note_start(cjson.decode(entries))
else
  swap(id, stored[2], version, data, entries)
end
return 1
