-- One of several devices has all messages up to this offset: which need not be kept any longer?
--
-- KEYS  1 presence:{user}  2 inbox:{user}  3 inboxmeta:{user}
-- ARGV  1 to 4 as in ack.lua  5 device  6 most devices  7 how long a device that is away holds
--       messages, ms  8 full life of a presence, ms
-- Returns how many messages went; or -1: not the owner of the device, or not an offset of this inbox.
--
-- Those go that all devices have, as far as they have a cursor. Only the owner of a device speaks for it.

local device, offset, epoch = ARGV[5], ARGV[3], ARGV[2]
local live = read(tonumber(ARGV[8]))
read_meta()
if not live[device] or live[device].conn ~= ARGV[1] or not meta.birth
    or epoch ~= meta.birth .. '.' .. ARGV[4] then
  return -1
end
local cursors = read_cursors(live)
local own = cursor_of(cursors, device)
cursors = forget_cursors(cursors, own, tonumber(ARGV[6]), tonumber(ARGV[7]))
local low = lowest_place(meta.last)
-- A reset may have named the place before the oldest message without its mark: nobody knows it.
if not is_known(offset, low, own) and offset ~= text(low - 1) .. '-0' then return -1 end

if not own then
  own = {name = device}
  cursors[#cursors + 1] = own
end
own.offset, own.epoch = offset, epoch
redis.call('HSET', KEYS[3], 'acked:' .. device, offset, 'ackedin:' .. device, epoch,
           'seen:' .. device, text(now_ms))
if not meta.furthest or place(offset) > place(meta.furthest) then
  redis.call('HSET', KEYS[3], 'furthest', offset)
end

local behind = own
for _, cursor in ipairs(cursors) do
  if place(cursor.offset) < place(behind.offset) then behind = cursor end
end
-- Messages after it may be gone already, because there were too many.
if place(behind.offset) < low - 1 then return 0 end
redis.call('HSET', KEYS[3], 'acked', behind.offset, 'ackedin', behind.epoch or '')
return redis.call('XTRIM', KEYS[2], 'MINID', '=', text(place(behind.offset) + 1))
