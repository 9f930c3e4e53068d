-- What the scripts for several devices have in common. Each of them is its own text after this one.
--
-- KEYS  1 presence:{user}  2 fence:{user}
--
-- A device has one field in presence:{user}: `s:{device}` = "gwId connId token until att inst". `until`
-- is in ms of this server's clock: an entry past it counts as absent. The six fields of a user with one
-- session (gwId connId ts epoch inst att) are there as well, and show the newest session.
-- A gateway with --devices 1 writes only these six. Such a session is `plain`: it is the session of
-- device '', and any newer session of the user replaces it.
-- The fence has three fields for each device: `top:{device}`, `floor:{device}`, `closed:{device}`. Those
-- of device '' have the names that register.lua uses. There is one `mint` for all devices. `low` stands
-- for all devices that the fence has forgotten: a token that is not above it is too old.

local function number(text) return tonumber(text or 0) or 0 end
local function text(n) return string.format('%.0f', n) end
local function field(kind, device) return device == '' and kind or kind .. ':' .. device end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function parse(value)
  local gateway, conn, token, till, att, inst = string.match(value, '^(%S+) (%S+) (%d+) (%d+) (%d+) (.*)$')
  if gateway then
    return {gateway = gateway, conn = conn, token = tonumber(token), till = tonumber(till), att = att, inst = inst}
  end
end

-- The session of a gateway with --devices 1. Beside other devices the life of the key says nothing
-- about it, so its own time counts; `ts` is in whole seconds.
local function plain_of(six, is_alone, ttl_ms)
  if not six.gwId or not six.connId then return nil end
  local till = (number(six.ts) + 1) * 1000 + ttl_ms
  if is_alone then till = math.max(till, now_ms + 1) end
  if till <= now_ms then return nil end
  return {gateway = six.gwId, conn = six.connId, token = number(six.epoch), till = till,
          att = six.att or '0', inst = six.inst or '', plain = true}
end

-- Returns the sessions that live, by device; how many; and the fields of those that do not.
local function read(ttl_ms)
  local live, count, gone, known, six = {}, 0, {}, {}, {}
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local device = string.match(all[i], '^s:(.*)$')
    local entry = device and parse(all[i + 1])
    if not device then
      six[all[i]] = all[i + 1]
    elseif entry and entry.till > now_ms then
      live[device], count, known[entry.conn] = entry, count + 1, true
    else
      gone[#gone + 1] = all[i]
      if entry then known[entry.conn] = true end
    end
  end
  local plain = not known[six.connId or ''] and plain_of(six, count == 0, ttl_ms)
  if plain and not (live[''] and live[''].token > plain.token) then
    if not live[''] then count = count + 1 end
    live[''] = plain
  end
  return live, count, gone
end

local function is_newer(one, other)
  return one.token > other.token or one.token == other.token and one.conn > other.conn
end

-- Writes what everybody looks at: the newest session, and a life as long as the longest.
local function show(live)
  local newest, till = nil, 0
  for _, entry in pairs(live) do
    till = math.max(till, entry.till)
    if not newest or is_newer(entry, newest) then newest = entry end
  end
  if not newest then
    redis.call('DEL', KEYS[1])
    return
  end
  if not newest.plain then
    redis.call('HSET', KEYS[1], 'gwId', newest.gateway, 'connId', newest.conn, 'ts', time[1],
               'epoch', text(newest.token), 'inst', newest.inst, 'att', newest.att)
  end
  redis.call('PEXPIREAT', KEYS[1], text(till))
end

local function write(live, device, entry)
  live[device] = entry
  redis.call('HSET', KEYS[1], 's:' .. device, table.concat({entry.gateway, entry.conn, text(entry.token),
             text(entry.till), entry.att, entry.inst}, ' '))
end

-- Ends a session, as if it had been released itself: its late commands find the fence closed.
local function evict(live, device)
  local entry, floor = live[device], field('floor', device)
  redis.call('HDEL', KEYS[1], 's:' .. device)
  redis.call('HSET', KEYS[2], floor, text(math.max(number(redis.call('HGET', KEYS[2], floor)), entry.token)),
             field('closed', device), text(entry.token) .. ':' .. entry.conn)
  live[device] = nil
  return entry
end

-- Tells those who watch the user. Called before the writes: if Redis refuses it, nothing is written.
local function announce(channel, state, reason, token)
  if channel ~= '' then
    redis.call('PUBLISH', channel, string.format('{"state":"%s","reason":"%s","token":%s,"at":%s}',
               state, reason, text(token), text(now_ms)))
  end
end
