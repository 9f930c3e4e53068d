#!lua flags=allow-oom
-- A gateway process is alive. Which others are, and which are not?
--
-- KEYS  1 boots
-- ARGV  1 boot ('' only looks)  2 life of this sign, ms (0: this process ends)
--       3 how long the lapsed are remembered, ms
-- Returns {'ok' or 'lapsed' (this one had been given up: it has to say again who is where), the lapsed,
-- the live}.

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms - ARGV[3])
local state = 'ok'
if ARGV[1] ~= '' then
  local till = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if not till or tonumber(till) <= now_ms then state = 'lapsed' end
  if ARGV[2] == '0' then
    redis.call('ZREM', KEYS[1], ARGV[1])
  else
    redis.call('ZADD', KEYS[1], string.format('%.0f', now_ms + ARGV[2]), ARGV[1])
    redis.call('PEXPIRE', KEYS[1], ARGV[2] + 2 * ARGV[3])
  end
end
return {state, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms),
        redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now_ms, '+inf')}
