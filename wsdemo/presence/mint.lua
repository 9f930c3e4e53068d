-- What is the token of a session that is about to register?
--
-- KEYS  1 fence:{user}
-- ARGV  1 life of the fence, ms
-- Returns the token, as text.
--
-- A token is a hybrid logical clock on this server's clock, in microseconds: never the same
-- twice and never smaller than one before, whatever the clock does; and still larger than all
-- those of yesterday when the server has lost its memory, which a plain counter is not.

local fence = redis.call('HMGET', KEYS[1], 'mint', 'top')
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local token = math.max(now, (tonumber(fence[1] or 0) or 0) + 1, (tonumber(fence[2] or 0) or 0) + 1)

-- %.0f, because tostring() would write 1.8e+15.
local text = string.format('%.0f', token)
redis.call('HSET', KEYS[1], 'mint', text)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return text
