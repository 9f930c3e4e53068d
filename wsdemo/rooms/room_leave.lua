#!lua flags=allow-oom
-- A session leaves a room, by its own wish or because it has ended.
--
-- KEYS  1 room:{name}  2 roomout:{name}
-- ARGV  1 member  2 token  3 seq: greater than that of the join; 2^53 when the session has ended and
--       joins no more  4 reason  5 life of what is kept of a room, ms  6 channel of the room  7 its name
-- Returns 1 when the member was there by this session, or an older one, and is not any more; else 0.

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local member, token, seq = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local state, old_token, old_seq = 'out', -1, -1
local entry = redis.call('HGET', KEYS[1], member)
if entry then
  local s, t, q = string.match(entry, '^(%a+) (%d+) (%d+)')
  state, old_token, old_seq = s, tonumber(t), tonumber(q)
end
if old_token > token or old_token == token and old_seq >= seq then return 0 end

-- It is remembered that the member is out, and by which stamp: an older join may still come.
redis.call('HSET', KEYS[1], member, 'out ' .. ARGV[2] .. ' ' .. ARGV[3])
redis.call('ZADD', KEYS[2], now_ms, member)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2 * ARGV[5]) end
if state ~= 'in' then return 0 end
local user, device = string.match(member, '^(%S+) ?(%S*)$')
redis.call('PUBLISH', ARGV[6], '{"type":"member","room":"' .. ARGV[7] .. '","user":"' .. user
    .. (device ~= '' and '","device":"' .. device or '') .. '","state":"leave","reason":"' .. ARGV[4] .. '"}')
return 1
