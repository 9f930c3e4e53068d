-- A session has ended. Is the entry of its device its own? Only then it goes (P1).
--
-- KEYS  1 presence:{user}  2 fence:{user}
-- ARGV  1 connId  2 token  3 life of the fence, ms  4 device  5 full life of a presence, ms
--       6 the channel of those who watch the user, or ''  7 why the session ended
-- Returns 1 when the entry was removed, -1 when the entry of the device is another session's, 0 when
-- there is none.

local conn, token, device = ARGV[1], tonumber(ARGV[2]), ARGV[4]
local live, count = read(tonumber(ARGV[5]))
local owner = live[device] or {}
local fence = redis.call('HMGET', KEYS[2], field('floor', device), field('top', device), 'mint', 'low')
local mint = math.max(number(fence[3]), token)
-- Also when all leases have run out before: nobody was told of that.
local is_last = count == 0 or (owner.conn == conn and count == 1)

if is_last then
  -- With the highest token that there is: nobody who watches takes it for old news.
  announce(ARGV[6], 'offline', ARGV[7], mint)
end
-- If the fence has forgotten the device, all its tokens are too old already.
if device == '' or fence[1] or fence[2] or token > number(fence[4]) then
  redis.call('HSET', KEYS[2], field('floor', device), text(math.max(number(fence[1]), token)), 'mint', text(mint))
  -- A session that never took effect says nothing about the one that did.
  if number(fence[2]) == token or number(fence[2]) == 0 then
    redis.call('HSET', KEYS[2], field('closed', device), ARGV[2] .. ':' .. conn)
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])

if owner.conn ~= conn then return owner.conn and -1 or 0 end
redis.call('HDEL', KEYS[1], 's:' .. device)
live[device] = nil
show(live)
return 1
