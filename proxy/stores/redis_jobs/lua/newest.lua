-- ARGV: limit, the creation and the id of the last job before or '' and '', and the sets, as in their
-- keys. Returns the creation and the id of the last job that was looked at, or '' and '' if there are
-- no more, and the data of the first `limit` jobs of any of the sets, newest first.
local LIFETIME = 3600
local limit, created, last = tonumber(ARGV[1]), ARGV[2], ARGV[3]

-- The key of the set in order. It is made when it is read, so that sets that nobody reads cost
-- nothing. Once an hour it is made again, or at once if it has another number of members: a replica
-- of another version may have changed the set alone.
local function ordered(set)
  local key, members = newest_key(set), prefix .. set
  if call('ZCARD', key) ~= call('ZCARD', members) then
    call('DEL', key)  -- a full store accepts a script that begins so
    call('ZINTERSTORE', key, 2, members, prefix .. 'age', 'WEIGHTS', 0, 1)
    call('EXPIRE', key, LIFETIME)
  end
  return key
end

local found, seen = {}, {}

-- Find the first `limit` of the set that follow the last job.
local function find(set)
  local key, count = ordered(set), 0
  local first = created == '' and 0 or call('ZCOUNT', key, '(' .. created, '+inf')
  repeat
    local part = call('ZREVRANGE', key, first, first + limit - 1, 'WITHSCORES')
    for i = 1, #part, 2 do
      local id, score = part[i], part[i + 1]
      if count < limit and (created == '' or tonumber(score) < tonumber(created) or id < last) then
        count = count + 1
        if not seen[id] then found[#found + 1] = {id, score} end
        seen[id] = true
      end
    end
    first = first + limit
  until count == limit or #part < 2 * limit
end

for i = 4, #ARGV do find(ARGV[i]) end
table.sort(found, function(a, b)
  local x, y = tonumber(a[2]), tonumber(b[2])
  return x > y or (x == y and a[1] > b[1])
end)
local reply = {'', ''}
for i = 1, math.min(limit, #found) do
  local id, score = found[i][1], found[i][2]
  local data = call('HGET', prefix .. 'job:' .. id, 'data')
  if data then reply[#reply + 1] = data end
  if i == limit then reply[1], reply[2] = score, id end
end
return reply
