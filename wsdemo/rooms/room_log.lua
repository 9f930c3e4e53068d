#!lua flags=no-writes
-- What was said in a room after this offset, or lately?
--
-- KEYS  1 roomlog:{name}  2 roomlogmeta:{name}
-- ARGV  1 epoch and 2 offset of the last message that the reader has ('' if none)
--       3 the most messages, when the reader has none, or what it has is not followed by all the rest
--       4 run of this server, '' when it is trusted
-- Returns {1 when all that comes after the offset is here, else 0; epoch; last offset; then offset,
-- message, ...}
--
-- A server that was restarted may have lost what it had confirmed, also what nobody has seen. So an
-- epoch is the birth of the history and the run of the server, as in an inbox.

local birth, last = unpack(redis.call('HMGET', KEYS[2], 'birth', 'last'))
if not birth then return {0, '', '0-0'} end
local epoch = birth .. '.' .. ARGV[4]
local known = ARGV[1] == epoch
    and (ARGV[2] == last or #redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2]) == 1)
local reply, rows = {known and 1 or 0, epoch, last}, {}
if known then
  rows = redis.call('XRANGE', KEYS[1], '(' .. ARGV[2], '+')
else
  local lately = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[3])
  for i = #lately, 1, -1 do rows[#rows + 1] = lately[i] end
end
for _, row in ipairs(rows) do
  reply[#reply + 1] = row[1]
  reply[#reply + 1] = row[2][2]
end
return reply
