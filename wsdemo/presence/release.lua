#!lua flags=allow-oom
-- A session has ended. Is the entry of its user its own? Only then it goes (P1).
--
-- KEYS  1 presence:{user}  2 fence:{user}
-- ARGV  1 connId  2 token  3 life of the fence, ms
--       4 the channel of those who watch the user (see register.lua)  5 why the session ended
-- Returns 1 when the entry was removed, -1 when it is another session's, 0 when there is none.
--
-- allow-oom: see refresh.lua.

local function number(text) return tonumber(text or 0) or 0 end
local function text(n) return string.format('%.0f', n) end

local conn, token = ARGV[1], tonumber(ARGV[2])
local fence = redis.call('HMGET', KEYS[2], 'floor', 'top', 'mint')

-- A register of this session that is still under way will find the floor above it.
redis.call('HSET', KEYS[2], 'floor', text(math.max(number(fence[1]), token)),
           'mint', text(math.max(number(fence[3]), token)))
-- A refresh of this session that is still under way will find it closed. A session that never
-- took effect says nothing about the one that did.
if number(fence[2]) == token or number(fence[2]) == 0 then
  redis.call('HSET', KEYS[2], 'closed', ARGV[2] .. ':' .. conn)
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])

local owner = redis.call('HGET', KEYS[1], 'connId')
-- Its own entry, or none: when its lease has run out, nobody was told of that.
if ARGV[4] and (owner or conn) == conn then
  local time = redis.call('TIME')
  redis.call('PUBLISH', ARGV[4], string.format(
    '{"state":"offline","reason":"%s","token":%s,"at":%s}',
    ARGV[5], ARGV[2], text(time[1] * 1000 + math.floor(time[2] / 1000))))
end
if owner == conn then
  redis.call('DEL', KEYS[1])
  return 1
end
return owner and -1 or 0
