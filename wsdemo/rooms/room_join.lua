-- A session enters a room, or says again that it is there.
--
-- KEYS  1 room:{name}  2 roomout:{name}
-- ARGV  1 member: the user, and a space and the device where users have several  2 token of the session
--       3 seq: its gateway counts its joins and leaves, from 1  4 gwId  5 boot of that gateway  6 connId
--       7 the most members  8 life of what is kept of a room, ms  9 channel of the room  10 its name
-- Returns {'joined', members} (the member was not there), {'moved', members} (a newer session of one who
-- is there), {'same', members}, {'stale'} or {'full', members}.
--
-- A room keeps one register for each member: "in|out token seq gwId boot connId". The higher stamp
-- (token, seq) wins, whoever comes first. So a late clean-up, a late join and a copy of either change
-- nothing.

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local member, token, seq = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

-- Who left so long ago that nothing older can come any more is forgotten.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms - ARGV[8], 'LIMIT', 0, 16)) do
  redis.call('ZREM', KEYS[2], name)
  redis.call('HDEL', KEYS[1], name)
end

local state, old_token, old_seq = 'out', -1, -1
local entry = redis.call('HGET', KEYS[1], member)
if entry then
  local s, t, q = string.match(entry, '^(%a+) (%d+) (%d+)')
  state, old_token, old_seq = s, tonumber(t), tonumber(q)
end
local members = redis.call('HLEN', KEYS[1]) - redis.call('ZCARD', KEYS[2])
if old_token > token or old_token == token and (old_seq > seq or old_seq == seq and state == 'out') then
  return {'stale'}
end
if state == 'in' and old_token == token and old_seq == seq then return {'same', members} end
if state == 'out' and members >= tonumber(ARGV[7]) then return {'full', members} end

redis.call('HSET', KEYS[1], member, 'in ' .. table.concat(ARGV, ' ', 2, 6))
redis.call('ZREM', KEYS[2], member)
-- Both keys end at the same moment: the one is not right without the other.
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2 * ARGV[8]) end
if state == 'in' then return {'moved', members} end
local user, device = string.match(member, '^(%S+) ?(%S*)$')
redis.call('PUBLISH', ARGV[9], '{"type":"member","room":"' .. ARGV[10] .. '","user":"' .. user
    .. (device ~= '' and '","device":"' .. device or '') .. '","state":"join"}')
return {'joined', members + 1}
