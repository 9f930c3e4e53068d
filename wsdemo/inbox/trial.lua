#!lua
-- May this server's user run all commands that the scripts of the inbox need?
--
-- KEYS  1 inbox:{nobody}  2 inboxmeta:{nobody}
-- Returns 'ok', or an error that names the command which Redis refuses. Nothing is left behind.

local function may(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    -- Within a script, a missing right is an error that names neither the command nor the reason.
    local text = string.gsub(reply.err, '^ERR ', 'NOPERM ' .. ({...})[1] .. ': ')
    return redis.error_reply(text)
  end
end

return may('DEL', KEYS[1], KEYS[2]) or may('XADD', KEYS[1], '1-1', 'd', '') or may('XLEN', KEYS[1])
    or may('XRANGE', KEYS[1], '-', '+', 'COUNT', 1) or may('XDEL', KEYS[1], '1-1')
    or may('XTRIM', KEYS[1], 'MINID', '=', '2') or may('SET', KEYS[2], '', 'PX', 1000)
    or may('GET', KEYS[2]) or may('DEL', KEYS[1], KEYS[2]) or 'ok'
