-- A process says that it uses a limit. `core.rs` says what this does; a test compares both.
-- KEYS: the processes, by when they were last heard of; a pause: "until|length"
-- ARGV: now ('' = the server's), node, ttl
-- Replies: {how many there are, how long a pause lasts}
local call, F = redis.call, string.format
local now = tonumber(ARGV[1])
if not now then local t = call('TIME'); now = t[1] * 1000000 + t[2] end
local ttl = tonumber(ARGV[3])
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', F('%.0f', now - ttl))
call('ZREMRANGEBYSCORE', KEYS[1], F('(%.0f', now + 1000000), '+inf')
call('ZADD', KEYS[1], F('%.0f', now), ARGV[2])
if ARGV[1] == '' then call('PEXPIRE', KEYS[1], F('%.0f', math.ceil(ttl / 1000))) end
local stored, paused = call('GET', KEYS[2]), 0
if stored then
  local till, length = string.match(stored, '^(%d+)|(%d+)$')
  paused = math.max(math.min(tonumber(till), now + tonumber(length)) - now, 0)
end
return { call('ZCARD', KEYS[1]), paused }
