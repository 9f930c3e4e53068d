-- The end of send.lua, when its recipient may have several devices: the gateway of each is told. The
-- script is send.lua, then what presence/devices_entries.lua says of devices, then this.
--
-- ARGV  11 full life of a presence, ms
-- Returns what send.lua does, and then gwId, connId of each further session.

local reply = {'stored', birth .. '.' .. ARGV[4], offset, '', '', by_number, by_bytes}
local holders, are_told = 0, true
for _, entry in pairs(read(tonumber(ARGV[11]))) do
  local gateway, conn = entry.gateway, entry.conn
  -- Foreign text must not become part of a channel name or of JSON.
  if gateway ~= 'broadcast' and #gateway <= 64 and #conn <= 128
      and string.find(gateway, '^[%w%._%-]+$') and string.find(conn, '^[%w%._:%-]+$') then
    -- The gateway that asks is told by the answer.
    local is_heard = gateway == ARGV[10]
        or redis.call('PUBLISH', ARGV[9] .. 'gateway:' .. gateway,
                      '{"type":"stored","toConn":"' .. conn .. '","epoch":"' .. reply[2]
                      .. '","offset":"' .. offset .. '"}') > 0
    are_told = are_told and is_heard
    local place = holders == 0 and 4 or 6 + 2 * holders
    reply[place], reply[place + 1], holders = gateway, conn, holders + 1
  end
end
if holders > 0 and are_told then
  redis.call('HSET', KEYS[3], 'told', string.format('%.0f', sent_ms + HINT_MS))
end
return reply
