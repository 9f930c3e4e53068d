-- What reading and acknowledging have in common when a user may have several devices. Each of the two
-- is its own text after this one, and after what presence/devices_entries.lua says of devices.
--
-- KEYS  1 presence:{user}  2 inbox:{user}  3 inboxmeta:{user}
--
-- Each device has a cursor, which holds all messages after it: three fields of inboxmeta:{user}.
-- `acked:{device}` is its offset. `ackedin:{device}` is the epoch in which the device acknowledged it;
-- without it nobody has: reading has begun there. `seen:{device}` is when it last read or acknowledged,
-- in ms of this server's clock.
-- `furthest` is the highest offset that any device has acknowledged. `acked` and `ackedin` are those of
-- the cursor that is furthest behind: all before it is gone. A gateway with --devices 1 goes on there.

local function place(offset) return tonumber(string.match(offset, '^%d+')) end

local meta = {}
local function read_meta()
  local all = redis.call('HGETALL', KEYS[3])
  for i = 1, #all, 2 do meta[all[i]] = all[i + 1] end
end

-- The place of the oldest message that is left, or of the next one.
local function lowest_place(last)
  local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  return first and place(first[1]) or place(last) + 1
end

-- Is this offset one of this inbox? Its number alone does not say so: after a failover another message
-- may have it. `own` is the cursor of the device that asks, if it has one.
local function is_known(offset, low, own)
  if place(offset) >= low then return #redis.call('XRANGE', KEYS[2], offset, offset) == 1 end
  return place(offset) == low - 1 and (offset == '0-0' or offset == meta.last or offset == meta.trimmed
      or offset == meta.acked or own ~= nil and offset == own.offset)
end

-- Returns all cursors: first those of devices that are connected, then the others, seen last first.
local function read_cursors(live)
  local found = {}
  for key, offset in pairs(meta) do
    local name = string.match(key, '^acked:(.*)$')
    if name then
      found[#found + 1] = {name = name, offset = offset, epoch = meta['ackedin:' .. name],
                           is_here = live[name] ~= nil, seen = number(meta['seen:' .. name])}
    end
  end
  table.sort(found, function(one, other)
    if one.is_here ~= other.is_here then return one.is_here end
    if one.seen ~= other.seen then return one.seen > other.seen end
    return one.name < other.name
  end)
  return found
end

-- Forgets the cursors of devices that are away, and were not here within `hold_ms` or are too many: they
-- hold nothing any longer. Returns the others. `own` is that of the device that asks; without one, it
-- gets one now.
local function forget_cursors(cursors, own, most, hold_ms)
  local kept = {}
  if not own then most = most - 1 end
  for _, cursor in ipairs(cursors) do
    if cursor.is_here or #kept < most and cursor.seen + hold_ms > now_ms then
      kept[#kept + 1] = cursor
    else
      redis.call('HDEL', KEYS[3], 'acked:' .. cursor.name, 'ackedin:' .. cursor.name,
                 'seen:' .. cursor.name)
    end
  end
  return kept
end

local function cursor_of(cursors, device)
  for _, cursor in ipairs(cursors) do
    if cursor.name == device then return cursor end
  end
end
