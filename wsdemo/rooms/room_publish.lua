-- A message is published in a room that keeps no history.
--
-- KEYS  1 room:{name}: where the room is; it is not read
-- ARGV  1 the message as its members read it  2 channel of the room
--       3 deadline: until when, in ms on the clock of this server
-- Returns {'expired'}, and then nothing was done; or {how many gateways listened}.

local now = redis.call('TIME')
if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[3]) then return {'expired'} end
return {redis.call('PUBLISH', ARGV[2], ARGV[1])}
