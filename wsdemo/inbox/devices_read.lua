-- What comes after this offset in the inbox of a user, for one of several devices?
--
-- KEYS  1 presence:{user}  2 inbox:{user}  3 inboxmeta:{user}
-- ARGV  1 to 9 as in read.lua  10 device  11 most devices  12 how long a device that is away holds
--       messages, ms  13 full life of a presence, ms
-- Returns what read.lua does.
--
-- Every rule of read.lua holds, with the cursor of the device in place of the acknowledgement of the
-- user. A device without a cursor begins after the last message that any device has acknowledged: it
-- gets what nobody has read yet, and is told that it may have missed something.

local device = ARGV[10]
local live = read(tonumber(ARGV[13]))
local owner = live[device]
-- A newer session has the device: the one that asks has to end, as at its next refresh.
if owner and owner.conn ~= ARGV[1] and owner.token > tonumber(ARGV[2]) then return {'superseded'} end

read_meta()
if not meta.birth then
  redis.call('DEL', KEYS[2], KEYS[3])
  meta = {birth = ARGV[7], last = '0-0'}
  redis.call('HSET', KEYS[3], 'birth', meta.birth, 'last', meta.last)
end
redis.call('PEXPIRE', KEYS[3], 2 * ARGV[9])
-- What is stored from now on is not on this page: all who read have to be told of it (send.lua).
if meta.told and meta.told ~= '0' then redis.call('HSET', KEYS[3], 'told', '0') end
local last, epoch = meta.last, meta.birth .. '.' .. ARGV[8]
local cursors = read_cursors(live)
local own = cursor_of(cursors, device)

-- Where a device begins without a cursor and without a position.
local start = meta.acked or '0-0'
if meta.furthest and place(meta.furthest) > place(start) then start = meta.furthest end

local since, same = ARGV[4], ARGV[3] == epoch
if ARGV[3] == '' then
  since, same = own and own.offset or start, own ~= nil and own.epoch == epoch
end

local low = lowest_place(last)
local ours = is_known(since, low, own)
if not ours then
  -- From the oldest message that is left.
  since = string.format('%.0f', low - 1) .. '-0'
  for _, offset in ipairs({own and own.offset or '', meta.acked or '', meta.trimmed or '', last}) do
    if place(offset) == low - 1 then since = offset end
  end
end
local rows, bytes = {}, 0
for _, row in ipairs(redis.call('XRANGE', KEYS[2], '(' .. since, '+', 'COUNT', ARGV[5])) do
  bytes = bytes + #row[2][2]
  if #rows > 0 and bytes > tonumber(ARGV[6]) then break end
  rows[#rows + 1] = row[1]
  rows[#rows + 1] = row[2][2]
end

-- From now on, what comes after this place is held for the device; also when it has gone back. What was
-- sent to a session is not acknowledged yet: its position alone does not let a new cursor begin there.
if owner and owner.conn == ARGV[1] then
  forget_cursors(cursors, own, tonumber(ARGV[11]), tonumber(ARGV[12]))
  local held = own and own.offset or start
  if place(since) < place(held) then held = since end
  if not own or held ~= own.offset then
    redis.call('HSET', KEYS[3], 'acked:' .. device, held)
    redis.call('HDEL', KEYS[3], 'ackedin:' .. device)
  end
  redis.call('HSET', KEYS[3], 'seen:' .. device, text(now_ms))
end
return {same and ours and 'recovered' or 'reset', epoch, since, last, rows}
