-- Where are the devices of the recipient? Then publish once to each of their gateways, in the same step.
--
-- KEYS  1 presence:{recipient}
-- ARGV  1 an envelope without type and closing brace  2 prefix of channel names
--       3 connIds that are left out, with a space before and after each  4 full life of a presence, ms
--       5 deadline: until when, in ms on the clock of this server
-- Returns {'expired'}, {'offline'}, {'malformed'}, or {'routed' or 'no_subscriber', gwId, gwId, ...}.
--
-- `routed`: at least one of the gateways listens. Each envelope names the sessions that were found,
-- and is delivered to those or to nobody. `of` says how many sessions were found in all. The session
-- of a gateway with --devices 1 gets the envelope of route.lua, which older gateways know as well; it
-- gets no echo, because there is no word for that in it.

-- Foreign text must not become part of a channel name or of JSON.
local function may_name(gateway, conn, device)
  return gateway ~= 'broadcast' and #gateway <= 64 and #conn <= 128 and string.find(gateway, '^[%w%._%-]+$')
      and string.find(conn, '^[%w%._:%-]+$') and #device <= 16 and string.find(device, '^[%w%._%-]*$')
end

local now = redis.call('TIME')
if now[1] * 1000 + now[2] / 1000 > tonumber(ARGV[5]) then return {'expired'} end
local live = read(tonumber(ARGV[4]))
-- A quotation mark within content is escaped, so this is no content.
local is_echo = string.find(ARGV[1], ',"echoTo":"', 1, true)
if is_echo and live[''] and live[''].plain then live[''] = nil end
local at, order, of, is_found = {}, {}, 0, false
for device, entry in pairs(live) do
  if may_name(entry.gateway, entry.conn, device) and entry.token <= 2^53 then
    of, is_found = of + 1, true
    if not string.find(ARGV[3], ' ' .. entry.conn .. ' ', 1, true) then
      if not at[entry.gateway] then at[entry.gateway], order[#order + 1] = {}, entry.gateway end
      table.insert(at[entry.gateway], string.format('["%s",%s,"%s"]', entry.conn, text(entry.token), device))
    end
  end
end
if #order == 0 then
  return {(is_found or redis.call('EXISTS', KEYS[1]) == 0 or next(live) == nil) and 'offline' or 'malformed'}
end

table.sort(order)
local reply = {'no_subscriber'}
for _, gateway in ipairs(order) do
  local envelope = ARGV[1] .. ',"type":"copies","of":' .. text(of) .. ',"toConns":['
      .. table.concat(at[gateway], ',') .. ']}'
  if live[''] and live[''].plain and live[''].gateway == gateway then
    envelope = ARGV[1] .. ',"type":"direct","toConn":"' .. live[''].conn .. '","epoch":'
        .. text(live[''].token) .. '}'
  end
  if redis.call('PUBLISH', ARGV[2] .. 'gateway:' .. gateway, envelope) > 0 then reply[1] = 'routed' end
  reply[#reply + 1] = gateway
end
return reply
