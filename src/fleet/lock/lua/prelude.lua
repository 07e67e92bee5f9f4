-- KEYS: meta (hash), leases (slot -> expiry), queue (member -> ticket), beats (member -> expiry). All in one slot.
-- ARGV: the time ('' is the server's own; `micros:history` in tests), the name of the lock, then what the script takes.
-- Times are microseconds: below 2^53 every number is exact, and `%.0f` writes it in full.
-- Every script answers { now, max, version, .. }, with -1 for what is not known.
local M, H, W, X = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local call, format, match, most = redis.call, string.format, string.match, math.max
local WAIT_TTL, CONFIRM, DAY_MS, HOUR = 4000000, 2000000, 86400000, 3600000000

local function text(n) return format('%.0f', n) end

local now, history
if ARGV[1] == '' then
  local t = call('TIME')
  now = t[1] * 1000000 + t[2]
else
  local at, line = match(ARGV[1], '^(%d+):(.*)$')
  now, history = tonumber(at), line
end

-- A script that fails is not rolled back: a key of another type has to fail here, before anything is written.
local c = call('HMGET', M, 'max', 'ver', 'tok', 'lm', 'tk', 'gl', 'gu', 'rid', 'ttl')
local max, version = tonumber(c[1]), tonumber(c[2]) or -1
local token, longest, ticket = tonumber(c[3]) or 0, tonumber(c[4]) or 0, tonumber(c[5]) or 0
local grace, grace_until = tonumber(c[6]) or 0, tonumber(c[7]) or 0
local leases, waiting = call('ZCARD', H), call('ZCARD', W)
call('ZCARD', X)
-- A server without memory refuses to begin with a write that needs some, but not to go on: this one needs none.
call('HDEL', M, '_')

local function live() return call('ZCOUNT', H, '(' .. text(now), '+inf') end

-- Abandoned names go after a day; a name in use is given another day every hour.
local function keep()
  local at = tonumber(c[9])
  if not at or at > now or now - at > HOUR then
    call('HSET', M, 'ttl', text(now))
    for i = 1, 4 do call('PEXPIRE', KEYS[i], DAY_MS) end
  end
end

-- After a failover, a restart or a loss, holders come back for one lease before anybody else is admitted.
local function in_grace()
  if grace == 0 then return false end
  local line = history or match(call('INFO', 'replication'), 'master_replid:(%w+)') or ''
  local span = most(grace, longest)
  if line ~= c[8] then
    c[8], grace_until = line, now + span
    call('HSET', M, 'rid', line, 'gu', text(grace_until))
  elseif grace_until > now + span then -- the clock went back
    grace_until = now + span
    call('HSET', M, 'gu', text(grace_until))
  end
  return now < grace_until
end

-- The clock went back: no lease outlives the longest one from now, and no waiter its time.
local function heal()
  local function cap(key, limit)
    local last = call('ZRANGE', key, -1, -1, 'WITHSCORES')
    if last[2] and tonumber(last[2]) > limit then
      for _, it in ipairs(call('ZRANGEBYSCORE', key, '(' .. text(limit), '+inf')) do call('ZADD', key, text(limit), it) end
    end
  end
  if longest > 0 then cap(H, now + longest) end
  cap(X, now + WAIT_TTL)
end

-- Who has shown no sign of life for too long has left the queue.
local function bury()
  for _, dead in ipairs(call('ZRANGEBYSCORE', X, '-inf', text(now))) do
    call('ZREM', X, dead)
    waiting = waiting - call('ZREM', W, dead)
  end
end

local function live_until(slot, expiry)
  if call('ZADD', H, text(expiry), slot) == 1 then
    leases = leases + 1
    if leases == 1 then call('PEXPIRE', H, DAY_MS) end -- a new key
  end
end

-- Who had a slot last: `s:slot` is token|member, and `o:member` names the slots of which that is so, nearly always one.
local function record(slot, t, member)
  local mine, others = 's:' .. slot, 'o:' .. member
  local known = call('HMGET', M, mine, others)
  local before = match(known[1] or '', '^%d+|(.*)$')
  if before == member then
    call('HSET', M, mine, text(t) .. '|' .. member, 'tok', text(token))
    return
  end
  call('HSET', M, mine, text(t) .. '|' .. member, others, (known[2] or '') .. slot .. ',', 'tok', text(token))
  if before then
    local left = string.gsub(call('HGET', M, 'o:' .. before) or '', slot .. ',', '')
    if left == '' then call('HDEL', M, 'o:' .. before) else call('HSET', M, 'o:' .. before, left) end
  end
end

local function give(slot, member, lease)
  token = most(token + 1, now)
  local expiry = now + lease
  live_until(slot, expiry)
  record(slot, token, member)
  return expiry
end

-- A slot that is free or has lapsed, if one may be given.
local function free_slot()
  while true do
    local slot = call('ZRANGEBYSCORE', H, '-inf', text(now), 'LIMIT', 0, 1)[1]
    if not slot then
      if leases >= max then return nil end
      local new = leases
      if call('ZSCORE', H, format('%07d', new)) then
        new = 0
        while call('ZSCORE', H, format('%07d', new)) do new = new + 1 end
      end
      return format('%07d', new)
    end
    if tonumber(slot) < max then
      if leases > max and live() >= max then return nil end -- shrunk, and others still drain
      return slot
    end
    call('ZREM', H, slot) -- shrunk: this one is gone
    leases = leases - 1
  end
end

-- The head of the queue that is still alive.
local function next_waiter()
  while true do
    local member = call('ZPOPMIN', W)[1]
    if not member then return nil end
    waiting = waiting - 1
    local expiry = call('ZSCORE', X, member)
    call('ZREM', X, member)
    if expiry and tonumber(expiry) > now then return member end
  end
end

-- Gives what is free to those who wait, in order, and tells their processes. What `me` got; and a slot nobody waits for.
local function hand_off(me)
  local mine
  if not max or in_grace() then return nil, nil end
  while true do
    local slot = free_slot()
    if not slot then return mine, nil end
    local member = next_waiter()
    if not member then return mine, slot end
    local id, lease, inbox = match(member, '^([^|]*)|(%d+)|([^|]*)|')
    lease = tonumber(lease)
    if member == me then
      mine = { slot, give(slot, member, lease) }
      mine[3] = token
    else
      -- A process may be gone by now: the first lease of who does not hear of it is short.
      local expiry = give(slot, member, math.min(lease, CONFIRM))
      call('PUBLISH', inbox, format('lock|%s|%d|%.0f|%.0f|%.0f|%s', id, tonumber(slot), token, expiry, now, ARGV[2]))
    end
  end
end

-- What a member has and has not given back: slot, token, expiry; of several the last to expire.
local function find(member)
  local found, t, expiry
  for slot in string.gmatch(call('HGET', M, 'o:' .. member) or '', '%d+') do
    local ends = tonumber(call('ZSCORE', H, slot)) or 0
    local last, who = match(call('HGET', M, 's:' .. slot) or '', '^(%d+)|(.*)$')
    if who == member and ends > 0 and (not found or ends > expiry or (ends == expiry and slot > found)) then
      found, t, expiry = slot, tonumber(last), ends
    end
  end
  return found, t, expiry
end

local function answer(rest)
  local out = { now, max or -1, version }
  for i = 1, #rest do out[i + 3] = rest[i] end
  return out
end
