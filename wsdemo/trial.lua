#!lua
-- Does this server do all that our scripts need of it?
--
-- KEYS  1 presence:{nobody}  2 fence:{nobody}
-- ARGV  channels that nobody listens to; the last is '1' for all of it, '0' when all was fine just now
-- Returns 'ok', or an error that names the command which Redis refuses.
--
-- The first line has no flags: so Redis refuses the script where it would refuse any write, on a
-- replica, without room for another key, or when it cannot save. Nothing is left behind.

local function may(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    -- Within a script, a missing right is an error that names neither the command nor the reason.
    local text = string.gsub(reply.err, '^ERR ', 'NOPERM ' .. ({...})[1] .. ': ')
    return redis.error_reply(text)
  end
end

if ARGV[#ARGV] ~= '1' then
  return may('DEL', KEYS[1]) or 'ok'
end
local refusal = may('TIME')
for _, key in ipairs(KEYS) do
  refusal = refusal or may('DEL', key) or may('HSET', key, 'trial', '1') or may('PEXPIRE', key, 1000)
      or may('HMGET', key, 'trial') or may('HGET', key, 'trial') or may('EXISTS', key)
      or may('DEL', key)
end
for i = 1, #ARGV - 1 do
  refusal = refusal or may('PUBLISH', ARGV[i], '')
end
return refusal or 'ok'
