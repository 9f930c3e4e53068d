#!lua flags=allow-oom
-- What comes after this offset in the inbox of a user, and is that all?
--
-- KEYS  1 presence:{user}  2 inbox:{user}  3 inboxmeta:{user}
-- ARGV  1 connId  2 token of the session  3 epoch, '' when the client knows none  4 offset
--       5 most messages  6 most bytes  7 birth of the inbox, in case that there is none (random)
--       8 run of this server, '' when it is trusted  9 life of the inbox, ms
-- Returns {'recovered', epoch, offset to go on from, last offset, rows}; {'reset', ...} when a
-- message stored after that offset is gone, or nobody can know; or {'superseded'}. The rows are one
-- list: offset, message, offset, message; a list for each costs half as much again.
--
-- `recovered` is never partial: all that was stored after the offset is in the rows, or follows on
-- the next page. When in doubt it is a reset: a loss may be told once too often, and never be hidden.

-- A newer session has the user: the one that asks has to end, as at its next refresh.
local owner = redis.call('HMGET', KEYS[1], 'connId', 'epoch')
if owner[1] and owner[1] ~= ARGV[1] and (tonumber(owner[2] or 0) or 0) > tonumber(ARGV[2]) then
  return {'superseded'}
end

local function number(offset) return tonumber(string.match(offset, '^%d+')) end

local meta = redis.call('HMGET', KEYS[3], 'birth', 'last', 'acked', 'ackedin', 'trimmed', 'told')
local birth, last, acked, trimmed = meta[1], meta[2], meta[3], meta[5]
if not birth then
  birth, last, acked, trimmed = ARGV[7], '0-0', nil, nil
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[3], 'birth', birth, 'last', last)
end
redis.call('PEXPIRE', KEYS[3], 2 * ARGV[9])
-- What is stored from now on is not on this page: who reads has to be told of it (send.lua).
if meta[6] and meta[6] ~= '0' then redis.call('HSET', KEYS[3], 'told', '0') end
local epoch = birth .. '.' .. ARGV[8]

-- Who comes without a position goes on from the last acknowledgement, if it was in this epoch.
local since, same = ARGV[4], ARGV[3] == epoch
if ARGV[3] == '' then
  since, same = acked or '0-0', acked and meta[4] == epoch
end

-- Is this offset one of ours? Then it is known what comes after it. The number alone does not say
-- so: after a failover another message may have it.
local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local low = first and number(first[1]) or number(last) + 1
local n, ours = number(since), false
if string.match(ARGV[3], '^[^.]*') == birth or ARGV[3] == '' then
  if n >= low then
    ours = #redis.call('XRANGE', KEYS[2], since, since) == 1
  else
    ours = n == low - 1 and (since == acked or since == trimmed or since == last or since == '0-0')
  end
end
if not ours then
  -- From the oldest message that is left.
  since = number(last) == low - 1 and last
      or trimmed and number(trimmed) == low - 1 and trimmed
      or acked and number(acked) == low - 1 and acked
      or string.format('%.0f', low - 1) .. '-0'
end
local rows, bytes = {}, 0
for _, row in ipairs(redis.call('XRANGE', KEYS[2], '(' .. since, '+', 'COUNT', ARGV[5])) do
  bytes = bytes + #row[2][2]
  if #rows > 0 and bytes > tonumber(ARGV[6]) then break end
  rows[#rows + 1] = row[1]
  rows[#rows + 1] = row[2][2]
end
return {same and ours and 'recovered' or 'reset', epoch, since, last, rows}
