-- May this session become the owner of its device? The other devices of the user stay.
--
-- KEYS  1 presence:{user}  2 fence:{user}
-- ARGV  1 connId  2 gwId  3 token  4 life of the presence, ms  5 life of the fence, ms  6 inst  7 att
--       8 device ('' when the client names none)  9 most devices  10 devices that the fence remembers
--       11 the channel of those who watch the user, or ''
-- Returns {'ok', gwId, connId, token, met} with the owner of this device before, and then gwId,
-- connId, token of each session that had to go for it; or {'stale', gwId, connId, token, met} with
-- the owner of this device now. Empty texts when there is none. `met` is 'plain' when a gateway with
-- --devices 1 has written the entry, else ''.
--
-- Every rule of register.lua holds, with the fields of one device.

local conn, token, inst, att, device = ARGV[1], tonumber(ARGV[3]), ARGV[6], ARGV[7], ARGV[8]
local live, count, gone = read(tonumber(ARGV[4]))
local owner = live[device] or {}
local met = live[''] and live[''].plain and 'plain' or ''
local fence = redis.call('HMGET', KEYS[2], field('top', device), field('floor', device), 'mint', 'low')
local top = math.max(number(fence[1]), owner.token or 0)

-- Somebody newer was here (P3), or this very session has already been released: a late command.
local late = token < top or number(fence[2]) >= token
-- The fence has forgotten this device: what it said of it is not above `low`.
local forgotten = device ~= '' and not fence[1] and token <= number(fence[4])
-- Equal tokens of two sessions exist only after a loss of data; the pair (token, connId) decides.
local tied = owner.conn and owner.token == token and owner.conn > conn
-- The same client process has dialled again since: this attempt was given up by its own client.
local given_up = inst ~= '' and owner.inst == inst and owner.conn ~= conn and number(owner.att) > number(att)
if late or forgotten or tied or given_up then
  return {'stale', owner.gateway or '', owner.conn or '', text(top), met}
end

announce(ARGV[11], 'online', next(live) and 'moved' or 'login', math.max(token, number(fence[3])))
for _, name in ipairs(gone) do redis.call('HDEL', KEYS[1], name) end

local reply = {'ok', '', '', '0', met}
local function note_evicted(entry)
  reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = entry.gateway, entry.conn, text(entry.token)
end
if owner.conn and owner.conn ~= conn then
  reply[2], reply[3], reply[4] = owner.gateway, owner.conn, text(owner.token)
end
if not owner.conn then count = count + 1 end
if device ~= '' and live[''] and live[''].plain and live[''].token <= token then
  note_evicted(evict(live, ''))
  count = count - 1
end
write(live, device, {gateway = ARGV[2], conn = conn, token = token, till = now_ms + ARGV[4], att = att, inst = inst})

-- Too many: of the others, the device that logged in first goes.
while count > tonumber(ARGV[9]) do
  local first
  for name, entry in pairs(live) do
    if name ~= device and (not first or is_newer(live[first], entry)) then first = name end
  end
  note_evicted(evict(live, first))
  count = count - 1
end

redis.call('HSET', KEYS[2], field('top', device), ARGV[3], 'mint', text(math.max(number(fence[3]), token)))
redis.call('PEXPIRE', KEYS[2], ARGV[5])

-- What the fence forgets of a device that is gone, `low` says for it: all its tokens were at most this.
local tops, names, fields = {}, 0, redis.call('HGETALL', KEYS[2])
for i = 1, #fields, 2 do
  local name = string.match(fields[i], '^top:(.*)$') or string.match(fields[i], '^floor:(.*)$')
  if name then
    if not tops[name] then names = names + 1 end
    tops[name] = math.max(tops[name] or 0, number(fields[i + 1]))
  end
end
while names > tonumber(ARGV[10]) do
  local first
  for name, highest in pairs(tops) do
    if not live[name] and (not first or highest < tops[first] or highest == tops[first] and name < first) then
      first = name
    end
  end
  if not first then break end
  redis.call('HSET', KEYS[2], 'low', text(math.max(tops[first], number(redis.call('HGET', KEYS[2], 'low')))))
  redis.call('HDEL', KEYS[2], 'top:' .. first, 'floor:' .. first, 'closed:' .. first)
  names, tops[first] = names - 1, nil
end

show(live)
return reply
