#!lua flags=allow-oom
-- Who is in a room, at one point in the order of its events?
--
-- KEYS  1 room:{name}  2 roomout:{name}
-- ARGV  1 channel of the room  2 a mark  3 life of what is kept of a room, ms  4 '0' for the number only
-- Returns how many are there; then member, register, member, register, ...
--
-- The mark is published in the same step. Whoever reads the channel knows by it which events are in this
-- list, and which come after it: a list and the events after it cannot contradict each other.

local there = {redis.call('HLEN', KEYS[1]) - redis.call('ZCARD', KEYS[2])}
local all = ARGV[4] == '0' and {} or redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.sub(all[i + 1], 1, 3) == 'in ' then
    there[#there + 1] = all[i]
    there[#there + 1] = all[i + 1]
  end
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2 * ARGV[3]) end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return there
