-- Where is the recipient? Then publish to its gateway, in the same step: nothing can move between.
--
-- KEYS  1 presence:{recipient}
-- ARGV  1 an envelope without its closing brace  2 prefix of channel names
--       3 deadline: until when, in ms on the clock of this server
-- Returns {'expired'}, {'offline'}, {'malformed'}, or {'routed' or 'no_subscriber', gwId, connId}.
--
-- The envelope leaves with the session that was found, and is delivered to that one or to nobody.

-- A server that was frozen finds in its sockets what its senders have given up long ago.
local now = redis.call('TIME')
if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[3]) then return {'expired'} end
local owner = redis.call('HMGET', KEYS[1], 'gwId', 'connId', 'epoch')
local gateway, conn = owner[1], owner[2]
if not gateway and not conn then
  -- The Go demo's refresh leaves half an entry behind a release: a time, and nobody.
  return {redis.call('EXISTS', KEYS[1]) == 0 and 'offline' or 'malformed'}
end
-- Foreign text must not become part of a channel name or of JSON.
if not gateway or not conn or gateway == 'broadcast' or #gateway > 64 or #conn > 128
    or not string.find(gateway, '^[%w%._%-]+$') or not string.find(conn, '^[%w%._:%-]+$') then
  return {'malformed'}
end
local epoch = tonumber(owner[3] or 0) or 0
if not (epoch >= 0 and epoch <= 2^53) then
  epoch = 0 -- Not one of ours; 'inf' and 'nan' are numbers to Lua, and not to JSON.
end
local envelope = ARGV[1] .. ',"toConn":"' .. conn .. '","epoch":'
    .. string.format('%.0f', epoch) .. '}'
local receivers = redis.call('PUBLISH', ARGV[2] .. 'gateway:' .. gateway, envelope)
return {receivers > 0 and 'routed' or 'no_subscriber', gateway, conn}
