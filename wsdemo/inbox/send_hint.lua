local epoch = birth .. '.' .. ARGV[4]
local owner = redis.call('HMGET', KEYS[1], 'gwId', 'connId')
local gateway, conn = owner[1], owner[2]
-- Foreign text must not become part of a channel name or of JSON (as in route.lua).
if gateway and conn and gateway ~= 'broadcast' and #gateway <= 64 and #conn <= 128
    and string.find(gateway, '^[%w%._%-]+$') and string.find(conn, '^[%w%._:%-]+$') then
  -- The gateway that asks is told by the answer.
  local is_heard = gateway == ARGV[10]
      or redis.call('PUBLISH', ARGV[9] .. 'gateway:' .. gateway,
                    '{"type":"stored","toConn":"' .. conn .. '","epoch":"' .. epoch
                    .. '","offset":"' .. offset .. '"}') > 0
  if is_heard then
    redis.call('HSET', KEYS[3], 'told', string.format('%.0f', sent_ms + HINT_MS))
  end
end
return {'stored', epoch, offset, gateway or '', conn or '', by_number, by_bytes}
