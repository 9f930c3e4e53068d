-- Is this session still the owner of its device? Then its lease is renewed.
--
-- KEYS  1 presence:{user}  2 fence:{user}
-- ARGV  1 connId  2 gwId  3 token  4 life of the presence, ms  5 life of the fence, ms  6 inst  7 att
--       8 device  9 most devices  10 full life of a presence, ms
--       11 the channel of those who watch the user, or ''
-- Returns {'ok'}, {'superseded', gwId, connId, token}, {'closed'} or {'reclaimed', gwId, connId, token},
-- each as refresh.lua does for a user with one session.

local conn, token, device = ARGV[1], tonumber(ARGV[3]), ARGV[8]
local live, count = read(tonumber(ARGV[10]))
local owner = live[device] or {}
local own = {gateway = ARGV[2], conn = conn, token = token, till = now_ms + ARGV[4], att = ARGV[7], inst = ARGV[6]}

if owner.conn == conn then
  write(live, device, own)
  show(live)
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
  return {'ok'}
end

local fence = redis.call('HMGET', KEYS[2], field('top', device), field('closed', device), 'mint', 'low')
-- Somebody newer has registered on this device, whether or not the entry still shows it (P2, P3).
if math.max(number(fence[1]), owner.token or 0) > token
    or (owner.conn and owner.token == token and owner.conn > conn) then
  return {'superseded', owner.gateway or '', owner.conn or '', text(owner.token or 0)}
end
-- This very session was released or had to go, or the fence has forgotten its device. A late release
-- may have come after that: then there is a floor again, but no top.
if fence[2] == ARGV[3] .. ':' .. conn
    or device ~= '' and not fence[1] and token <= number(fence[4]) then
  return {'closed'}
end
-- The entry was lost. If other devices have taken its place, its client has to dial again: an entry
-- that came back here would be one too many.
if not owner.conn and count >= tonumber(ARGV[9]) then return {'closed'} end

announce(ARGV[11], 'online', 'reclaimed', math.max(token, number(fence[3])))
if device ~= '' and live[''] and live[''].plain and live[''].token <= token then evict(live, '') end
redis.call('HSET', KEYS[2], field('top', device), ARGV[3], 'mint', text(math.max(number(fence[3]), token)))
redis.call('PEXPIRE', KEYS[2], ARGV[5])
write(live, device, own)
show(live)
return {'reclaimed', owner.gateway or '', owner.conn or '', text(owner.token or 0)}
