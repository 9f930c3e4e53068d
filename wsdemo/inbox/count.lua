#!lua flags=no-writes
-- How much is in the inbox of a user? It says nothing of what is in it.
--
-- KEYS  1 inbox:{user}  2 inboxmeta:{user}
-- Returns {messages, bytes, last offset, last acknowledged offset}; '' for what there is not.

local meta = redis.call('HMGET', KEYS[2], 'bytes', 'last', 'acked')
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
-- Each entry carries in `c` the bytes stored before it (send.lua).
local bytes = first and (tonumber(meta[1] or 0) - tonumber(first[2][4])) or 0
return {redis.call('XLEN', KEYS[1]), bytes, meta[2] or '', meta[3] or ''}
