#!lua flags=allow-oom
-- A gateway is gone: who was in this room by it is not any more.
--
-- KEYS  1 room:{name}  2 roomout:{name}
-- ARGV  1 channel of the room  2 its name  3 life of what is kept of a room, ms
--       4... boots that have lapsed
-- Returns how many went. Whoever sweeps first finds them, so each is told once.
--
-- Who goes is remembered as one who left just before the join that is swept. So what is older does not
-- bring the member back. If that gateway was only asleep, it says the same join again, and that one
-- counts, unless a newer session has joined meanwhile.

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local dead, swept = {}, 0
for i = 4, #ARGV do dead[ARGV[i]] = true end
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local member = all[i]
  local token, seq, boot = string.match(all[i + 1], '^in (%d+) (%d+) %S+ (%S+)')
  if boot and dead[boot] then
    local before = string.format('%.0f', tonumber(seq) - 1)
    redis.call('HSET', KEYS[1], member, 'out ' .. token .. ' ' .. before)
    redis.call('ZADD', KEYS[2], now_ms, member)
    local user, device = string.match(member, '^(%S+) ?(%S*)$')
    redis.call('PUBLISH', ARGV[1], '{"type":"member","room":"' .. ARGV[2] .. '","user":"' .. user
        .. (device ~= '' and '","device":"' .. device or '') .. '","state":"leave","reason":"gateway lost"}')
    swept = swept + 1
  end
end
if swept > 0 then
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2 * ARGV[3]) end
end
return swept
