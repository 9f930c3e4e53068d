#!lua flags=allow-oom
-- The client has all messages up to this offset: they need not be kept.
--
-- KEYS  1 presence:{user}  2 inbox:{user}  3 inboxmeta:{user}
-- ARGV  1 connId  2 epoch  3 offset  4 run of this server, '' when it is trusted
-- Returns how many messages went; or -1: not the owner, or not an offset of this inbox.
--
-- Only the owner's word counts: a session that was replaced must not take away what the newer one
-- has not read. (P1, for messages.)

local function number(offset) return tonumber(string.match(offset, '^%d+')) end

local meta = redis.call('HMGET', KEYS[3], 'birth', 'last', 'acked', 'trimmed')
if redis.call('HGET', KEYS[1], 'connId') ~= ARGV[1] or not meta[1]
    or ARGV[2] ~= meta[1] .. '.' .. ARGV[4] then
  return -1
end
if #redis.call('XRANGE', KEYS[2], ARGV[3], ARGV[3]) == 0 then
  -- The place before the oldest message that is left: the client was told that it goes on there. Its
  -- number alone does not say so: after a failover another message may have had it (as in READ).
  local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  local is_ours = ARGV[3] == meta[2] or ARGV[3] == meta[3] or ARGV[3] == meta[4]
      or string.find(ARGV[3], '%-0$')
  if not is_ours or number(ARGV[3]) + 1 ~= (first and number(first[1]) or number(meta[2]) + 1) then
    return -1
  end
end
redis.call('HSET', KEYS[3], 'acked', ARGV[3], 'ackedin', ARGV[2])
return redis.call('XTRIM', KEYS[2], 'MINID', '=', string.format('%.0f', number(ARGV[3]) + 1))
