-- May this session become the owner of its user?
--
-- KEYS  1 presence:{user}  2 fence:{user}
-- ARGV  1 connId  2 gwId  3 token  4 life of the presence, ms  5 life of the fence, ms
--       6 inst (random per client process, or '')  7 att (the number of this attempt)
--       8 the channel of those who watch the user; without it, nobody is told
-- Returns {'ok' or 'stale', gwId, connId, token} with the owner before (ok) or now (stale);
-- empty texts when there is none.

local function number(text) return tonumber(text or 0) or 0 end
local function text(n) return string.format('%.0f', n) end

local conn, token, inst, att = ARGV[1], tonumber(ARGV[3]), ARGV[6], tonumber(ARGV[7])
local owner = redis.call('HMGET', KEYS[1], 'gwId', 'connId', 'epoch', 'inst', 'att')
local fence = redis.call('HMGET', KEYS[2], 'top', 'floor', 'mint')
local owner_token = number(owner[3])
local top = math.max(number(fence[1]), owner_token)

-- Somebody newer was here (P3), or this very session has already been released: a late command.
local late = token < top or number(fence[2]) >= token
-- Equal tokens of two sessions exist only after a loss of data; the pair (token, connId) decides.
local tied = owner[2] and owner_token == token and owner[2] > conn
-- The same client process has dialled again since: this attempt was given up by its own client.
local given_up = inst ~= '' and owner[4] == inst and owner[2] ~= conn and number(owner[5]) > att

if late or tied or given_up then
  return {'stale', owner[1] or '', owner[2] or '', text(top)}
end

local time = redis.call('TIME')
local now = time[1]
-- Before the writes: if Redis refuses it, nothing has been written.
if ARGV[8] then
  redis.call('PUBLISH', ARGV[8], string.format(
    '{"state":"online","reason":"%s","token":%s,"at":%s}', owner[2] and 'moved' or 'login',
    ARGV[3], text(time[1] * 1000 + math.floor(time[2] / 1000))))
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'gwId', ARGV[2], 'connId', conn, 'ts', now,
           'epoch', ARGV[3], 'inst', inst, 'att', ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('HSET', KEYS[2], 'top', ARGV[3], 'mint', text(math.max(number(fence[3]), token)))
redis.call('PEXPIRE', KEYS[2], ARGV[5])

if owner[2] and owner[2] ~= conn then
  return {'ok', owner[1] or '', owner[2], text(owner_token)}
end
return {'ok', '', '', '0'}
