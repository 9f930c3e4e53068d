-- A message is put into the history of its room, and published.
--
-- KEYS  1 roomlog:{name}  2 roomlogmeta:{name}
-- ARGV  1 the message as its members read it, without its last brace  2 mark: random, so that an offset
--       names this message and no other one  3 birth of the history if there is none  4 the most messages
--       5 life of the history, ms  6 channel of the room
--       7 deadline: until when, in ms on the clock of this server
-- Returns {'expired'}, and then nothing was done; or {how many gateways listened, offset}.

local now = redis.call('TIME')
if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[7]) then return {'expired'} end

local birth, last = unpack(redis.call('HMGET', KEYS[2], 'birth', 'last'))
if not birth then
  birth, last = ARGV[3], '0-0'
  redis.call('DEL', KEYS[1])
end
local offset = string.format('%.0f', tonumber(string.match(last, '^%d+')) + 1) .. '-' .. ARGV[2]
redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[4], offset, 'd', ARGV[1])
redis.call('HSET', KEYS[2], 'birth', birth, 'last', offset)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[5]) end
return {redis.call('PUBLISH', ARGV[6], ARGV[1] .. ',"offset":"' .. offset .. '"}'), offset}
