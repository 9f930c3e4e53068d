#!lua flags=allow-oom
-- Is this session still the owner of its user? Then its lease is renewed.
--
-- KEYS  1 presence:{user}  2 fence:{user}
-- ARGV  1 connId  2 gwId  3 token  4 life of the presence, ms  5 life of the fence, ms
--       6 inst  7 att  8 the channel of those who watch the user (see register.lua)
-- Returns {'ok'}, or {'superseded', gwId, connId, token} with the newer owner ('' when it has
-- gone again), or {'closed'}, or {'reclaimed', gwId, connId, token} with the owner before.
--
-- allow-oom: a server that is full refuses new users, but does not lose those it has.

local function number(text) return tonumber(text or 0) or 0 end
local function text(n) return string.format('%.0f', n) end

local conn, token = ARGV[1], tonumber(ARGV[3])
local owner = redis.call('HMGET', KEYS[1], 'gwId', 'connId', 'epoch')
local time = redis.call('TIME')
local now = time[1]

if owner[2] == conn then
  redis.call('HSET', KEYS[1], 'ts', now)
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
  return {'ok'}
end

local fence = redis.call('HMGET', KEYS[2], 'top', 'closed', 'mint')
local owner_token = number(owner[3])

-- Somebody newer has registered, whether or not the entry still shows it (P2, P3).
if math.max(number(fence[1]), owner_token) > token
    or (owner[2] and owner_token == token and owner[2] > conn) then
  return {'superseded', owner[1] or '', owner[2] or '', owner[3] or '0'}
end

-- This very session was released, so this is a late command. Compared by equality: as a high-water
-- mark, a failed login with a higher token would shut out the older session that lives on.
if fence[2] == ARGV[3] .. ':' .. conn then
  return {'closed'}
end

-- The entry was lost (TTL, a flush, a failover), or an older session reclaimed it first.
-- Before the writes: if Redis refuses it, nothing has been written.
if ARGV[8] then
  redis.call('PUBLISH', ARGV[8], string.format(
    '{"state":"online","reason":"reclaimed","token":%s,"at":%s}',
    ARGV[3], text(time[1] * 1000 + math.floor(time[2] / 1000))))
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'gwId', ARGV[2], 'connId', conn, 'ts', now,
           'epoch', ARGV[3], 'inst', ARGV[6], 'att', ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('HSET', KEYS[2], 'top', ARGV[3], 'mint', text(math.max(number(fence[3]), token)))
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return {'reclaimed', owner[1] or '', owner[2] or '', owner[3] or '0'}
