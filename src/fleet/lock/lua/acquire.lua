-- ARGV: .., member, lease, most that may wait, max, version, grace, retry
-- -> 1, slot, token, expiry | 2, rank, next expiry | 3, waiting
local me, lease, may_wait = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
if not max or tonumber(ARGV[7]) > version then
  max, version = tonumber(ARGV[6]), tonumber(ARGV[7])
  call('HSET', M, 'max', ARGV[6], 'ver', ARGV[7])
end
if lease > longest then
  longest = lease
  call('HSET', M, 'lm', ARGV[4])
end
if tonumber(ARGV[8]) > grace then
  grace = tonumber(ARGV[8])
  call('HSET', M, 'gl', ARGV[8])
end

local queued = false
if ARGV[9] == '1' then
  -- The call before this one may have been done, or its answer be lost.
  local slot, t, expiry = find(me)
  if slot then
    if expiry > now or (tonumber(slot) < max and live() < max) then
      call('ZADD', H, text(now + lease), slot)
      keep()
      return answer({ 1, tonumber(slot), t, now + lease })
    end
    call('ZADD', H, 0, slot)
  end
  queued = call('ZSCORE', W, me)
  if queued then call('ZADD', X, text(now + WAIT_TTL), me) end
end

local mine, slot = hand_off(me)
if not mine and slot then
  mine = { slot, give(slot, me, lease) }
  mine[3] = token
end
if mine then
  keep()
  return answer({ 1, tonumber(mine[1]), mine[3], mine[2] })
end
if not queued then
  if may_wait > 0 and waiting >= may_wait then bury() end
  if waiting >= may_wait then
    heal()
    keep()
    return answer({ 3, waiting })
  end
  ticket = most(ticket + 1, now)
  call('HSET', M, 'tk', text(ticket))
  call('ZADD', W, text(ticket), me)
  call('ZADD', X, text(now + WAIT_TTL), me)
  if waiting == 0 then
    call('PEXPIRE', W, DAY_MS)
    call('PEXPIRE', X, DAY_MS)
  end
end
heal()
keep()
local first = call('ZRANGEBYSCORE', H, '(' .. text(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return answer({ 2, call('ZRANK', W, me) or -1, tonumber(first[2]) or 0 })
