-- A breaker that many processes share. `core.rs` says what this does; a test compares both.
-- KEYS: state (hash), processes that failed (zset), processes that opened by themselves (zset)
-- ARGV: now ('' = the server's), operation, node, channel, seen, then
--   report: ok, failed, opened, slice, minimum_calls, permille, min_nodes, open_for -> {open, epoch, remaining}
--   lease: length                                                    -> {mine, wait, open, epoch, remaining}
--   probed: failed_for                                               -> {open, epoch, remaining}
local S, failing, opened = KEYS[1], KEYS[2], KEYS[3]
local call, F = redis.call, string.format
local now = tonumber(ARGV[1])
if not now then local t = call('TIME'); now = t[1] * 1000000 + t[2] end
local node, channel, seen = ARGV[3], ARGV[4], tonumber(ARGV[5])
local SLICES, STEP_BACK = 10, 1000000

-- All is read before the first write: an error in the middle is not undone.
local c = call('HMGET', S, 'open', 'epoch', 'until', 'length', 'pnode', 'puntil', 'plength')
call('ZCARD', failing); call('ZCARD', opened)
local is_open, epoch = c[1] == '1', tonumber(c[2]) or 0
local length, plength = tonumber(c[4]) or 0, tonumber(c[7]) or 0
local till = math.min(tonumber(c[3]) or 0, now + length)
local ptill = math.min(tonumber(c[6]) or 0, now + plength)
if seen > epoch then epoch = is_open and seen + 1 or seen end

local function news(...)
  call('PEXPIRE', S, 86400000)
  local reply = { ... }
  reply[#reply + 1] = is_open and 1 or 0
  reply[#reply + 1] = epoch
  reply[#reply + 1] = is_open and math.max(till - now, 0) or 0
  return reply
end
local function write()
  call('HSET', S, 'open', is_open and '1' or '0', 'epoch', F('%.0f', epoch), 'until', F('%.0f', till),
    'length', F('%.0f', length))
  if c[5] then call('HSET', S, 'puntil', F('%.0f', ptill)) end
end
-- Begins an epoch: what was counted before says nothing about it.
local function change(open, len)
  is_open, epoch, length = open, epoch + 1, len
  till = open and now + len or 0
  call('DEL', S, failing, opened)
  c[5] = nil
  write()
  call('PUBLISH', channel, F('breaker|%s|%d|%.0f|%.0f', S, open and 1 or 0, epoch, len))
end

if ARGV[2] == 'lease' then
  local len = tonumber(ARGV[6])
  local busy = 0
  if c[5] and c[5] ~= node and now < ptill then busy = ptill - now end
  write()
  if is_open and now >= till and busy == 0 then
    call('HSET', S, 'pnode', node, 'puntil', F('%.0f', now + len), 'plength', F('%.0f', len))
    return news(1, 0)
  end
  return news(0, math.max(is_open and till - now or 0, busy, 0))
end

if ARGV[2] == 'probed' then
  local len = tonumber(ARGV[6])
  if is_open and seen == epoch and c[5] == node then change(len > 0, len) else write() end
  return news()
end

local ok, failed, opens = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local slice, minimum, permille = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local min_nodes, open_for = tonumber(ARGV[12]), tonumber(ARGV[13])
if is_open or seen ~= epoch then write(); return news() end
local id = (now - math.fmod(now, slice)) / slice
local fields = {}
for i = 0, SLICES - 1 do fields[#fields + 1] = 'n' .. i; fields[#fields + 1] = 'o' .. i; fields[#fields + 1] = 'f' .. i end
local v = call('HMGET', S, unpack(fields))
local at = math.fmod(id, SLICES)
if ok + failed > 0 then
  local o, f = 0, 0
  if tonumber(v[at * 3 + 1]) == id then o, f = tonumber(v[at * 3 + 2]), tonumber(v[at * 3 + 3]) end
  v[at * 3 + 1], v[at * 3 + 2], v[at * 3 + 3] = id, o + ok, f + failed
  call('HSET', S, 'n' .. at, F('%.0f', id), 'o' .. at, F('%.0f', o + ok), 'f' .. at, F('%.0f', f + failed))
end
write()
if failed > 0 then call('ZADD', failing, F('%.0f', now), node) end
if opens > 0 then call('ZADD', opened, F('%.0f', now), node) end
local ttl = F('%.0f', math.max(math.ceil(slice * SLICES / 1000), 1000))
for _, key in ipairs({ failing, opened }) do
  call('ZREMRANGEBYSCORE', key, '-inf', F('%.0f', now - slice * SLICES))
  call('ZREMRANGEBYSCORE', key, F('(%.0f', now + STEP_BACK), '+inf')
  if ARGV[1] == '' then call('PEXPIRE', key, ttl) end
end
if opens > 0 and call('ZCARD', opened) >= min_nodes then
  change(true, opens)
  return news()
end
local calls, bad = 0, 0
for i = 0, SLICES - 1 do
  local n = tonumber(v[i * 3 + 1])
  if n and n + SLICES > id and n <= id then
    calls = calls + tonumber(v[i * 3 + 2]) + tonumber(v[i * 3 + 3])
    bad = bad + tonumber(v[i * 3 + 3])
  end
end
if failed > 0 and calls >= minimum and bad * 1000 >= permille * calls and call('ZCARD', failing) >= min_nodes then
  change(true, open_for)
end
return news()
