-- KEYS: a sorted set, node -> when it was last heard of (microseconds of the server's clock)
-- ARGV: the time, or '' for the server's own; this node, or '' for none; after how long a node is forgotten; how many are named
local key, call = KEYS[1], redis.call
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end
local ttl = tonumber(ARGV[3])
-- A clock that steps back must not keep a node for longer.
call('ZREMRANGEBYSCORE', key, string.format('(%.0f', now + ttl), '+inf')
call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - ttl))
if ARGV[2] ~= '' then
  call('ZADD', key, string.format('%.0f', now), ARGV[2])
  call('PEXPIRE', key, math.ceil(ttl / 1000))
end
local named = call('ZRANGE', key, 0, tonumber(ARGV[4]) - 1)
return { call('ZCARD', key), named }
