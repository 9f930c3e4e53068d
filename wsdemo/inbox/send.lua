-- Is this message in the inbox of its recipient already? If not, it is stored; and whoever holds the
-- recipient is told.
--
-- KEYS  1 presence:{to}  2 inbox:{to}  3 inboxmeta:{to}  4 inboxid:{to}:{from}:{id}
-- ARGV  1 head: the message as its recipient reads it, without the closing brace
--       2 mark: random digits, at most 15; no other offset with the same number has them
--       3 birth of the inbox, in case that there is none (random)
--       4 run of this server, '' when it is trusted
--       5 most messages  6 most bytes  7 life of the inbox, ms  8 life of the id, ms
--       9 prefix of channels  10 gateway that asks
--       the last: deadline, until when, in ms on the clock of this server
-- Returns {'expired'}, and then nothing is stored; or {'stored' or 'duplicate', epoch, offset, gwId, connId, trimmed because of the number,
-- trimmed because of the bytes}; '' for gwId and connId when there is no owner, or it knows already.
--
-- Who was told that there is something to read need not be told again before it has read: all that is
-- stored meanwhile is read as well. So a hint sets `told`, READ clears it, and while it is set SEND does
-- not look who the owner is. A new session begins with a READ. A hint may be lost: `told` is a time (ms),
-- and ends by itself.
--
-- An offset "n-mark" is the id of the entry in the stream; n counts without holes. Each entry carries
-- in `c` the bytes stored before it: so the size of an inbox is one subtraction, whatever was trimmed.
-- `before` is what was stored before the oldest entry, or less: it is looked up when it matters.

-- How long a hint stands for the messages after it, ms. What is stored then may live so much shorter.
local HINT_MS = 100

local now = redis.call('TIME')
local sent_ms = now[1] * 1000 + now[2] / 1000
if sent_ms > tonumber(ARGV[#ARGV]) then return {'expired'} end

local meta = redis.call('HMGET', KEYS[3], 'birth', 'last', 'bytes', 'before', 'acked', 'told')
local birth, last, bytes, before = meta[1], meta[2], tonumber(meta[3] or 0), tonumber(meta[4] or 0)
if birth then
  local known = redis.call('GET', KEYS[4])
  -- What is known of an id from an inbox before this one is void: that message is gone.
  if known and string.sub(known, 1, #birth + 1) == birth .. ':' then
    return {'duplicate', birth .. '.' .. ARGV[4], string.sub(known, #birth + 2), '', '', 0, 0}
  end
else
  birth, last, bytes = ARGV[3], '0-0', 0
  redis.call('DEL', KEYS[2])
end

-- Room for it: the oldest messages go, and where they ended is noted, so that a gap is noticed.
local size, most, room = #ARGV[1], tonumber(ARGV[5]), tonumber(ARGV[6])
local count = redis.call('XLEN', KEYS[2])
-- (A stream that was lost needs a new life.)
local is_told = count > 0 and sent_ms < (tonumber(meta[6] or 0) or 0)
-- An inbox that is empty, and not because all was acknowledged: its stream was lost, or has ended.
local trimmed = count == 0 and last ~= '0-0' and last ~= meta[5] and last or nil
local by_number, by_bytes = 0, 0
while count > 0 and (count >= most or bytes + size - before > room) do
  local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  before = tonumber(first[2][4])
  if count < most and bytes + size - before <= room then break end
  if count >= most then by_number = by_number + 1 else by_bytes = by_bytes + 1 end
  trimmed, count = first[1], count - 1
  redis.call('XDEL', KEYS[2], trimmed)
end

local offset = string.format('%.0f', tonumber(string.match(last, '^%d+')) + 1) .. '-' .. ARGV[2]
redis.call('XADD', KEYS[2], offset, 'd', ARGV[1], 'c', string.format('%.0f', bytes))
redis.call('HSET', KEYS[3], 'birth', birth, 'last', offset,
           'bytes', string.format('%.0f', bytes + size))
if trimmed then redis.call('HSET', KEYS[3], 'trimmed', trimmed) end
if before ~= tonumber(meta[4] or 0) then
  redis.call('HSET', KEYS[3], 'before', string.format('%.0f', before))
end
redis.call('SET', KEYS[4], birth .. ':' .. offset, 'PX', ARGV[8])
if is_told then
  return {'stored', birth .. '.' .. ARGV[4], offset, '', '', by_number, by_bytes}
end
redis.call('PEXPIRE', KEYS[2], ARGV[7] + HINT_MS)
redis.call('PEXPIRE', KEYS[3], 2 * ARGV[7])

