-- Gives back units, takes more, or believes a service that less is left; and begins a pause. `core.rs` says what this does;
-- a test compares both.
-- KEYS: a level for each quota: "missing|at|period"; a pause: "until|length"
-- ARGV: now ('' = the server's), length of the pause, channel, node, then for each quota: amount, period, burst, back, more, most
-- Replies: {1, left of each} if it begins a pause, which the channel is told: "rate|key of the pause|node"; else {0, left of each}
local call, F = redis.call, string.format
local now = tonumber(ARGV[1])
if not now then local t = call('TIME'); now = t[1] * 1000000 + t[2] end
local HIGHEST, STEP_BACK = 4503599627370496, 1000000
-- Exact, where `math.ceil(a / b)` rounds.
local function div(a, b) return (a - math.fmod(a, b)) / b end
local function div_ceil(a, b) local r = math.fmod(a, b); return (a - r) / b + (r > 0 and 1 or 0) end

-- When the next turn may be: `first`.
local function pause_end(key)
  local stored = call('GET', key)
  if not stored then return now end
  local till, length = string.match(stored, '^(%d+)|(%d+)$')
  return math.max(math.min(tonumber(till), now + tonumber(length)), now)
end

-- All is read before the first write: an error in the middle is not undone.
local n, length = #KEYS - 1, tonumber(ARGV[2])
local before = pause_end(KEYS[n + 1])
local first, begins = before, 0
local stored = {}
for i = 1, n do stored[i] = call('GET', KEYS[i]) end
if length > before - now then
  first, begins = now + length, 1
  local pause = F('%.0f|%.0f', first, length)
  if ARGV[1] == '' then
    -- A second more, in case the clock steps back.
    call('SET', KEYS[n + 1], pause, 'PX', F('%.0f', div_ceil(length, 1000) + 1001))
  else
    call('SET', KEYS[n + 1], pause)
  end
end
local reply = { begins }
for i = 1, (#ARGV - 4) / 6 do
  local o = 4 + (i - 1) * 6
  local amount, period, burst = tonumber(ARGV[o + 1]), tonumber(ARGV[o + 2]), tonumber(ARGV[o + 3])
  local back, more, most = tonumber(ARGV[o + 4]), tonumber(ARGV[o + 5]), tonumber(ARGV[o + 6])
  local missing, at = 0, before
  if stored[i] then
    local m, a, p = string.match(stored[i], '^(%d+)|(%d+)|(%d+)$')
    missing, at, p = tonumber(m), tonumber(a), tonumber(p)
    if p ~= period then missing = math.min(div_ceil(missing, p), div(HIGHEST, period)) * period end
    if before < at then
      if at - before > STEP_BACK then at = before end
    else
      local elapsed = before - at
      if elapsed >= div_ceil(missing, amount) then missing = 0 else missing = missing - elapsed * amount end
      at = before
    end
  end
  missing = math.max(missing - math.min(back, burst) * period, 0) + math.min(more, burst) * period
  missing = math.min(math.max(missing, (burst - math.min(most, burst)) * period), HIGHEST)
  -- In a pause nothing is earned.
  at = math.max(at, first)
  local level = F('%.0f|%.0f|%.0f', missing, at, period)
  if ARGV[1] == '' then
    call('SET', KEYS[i], level, 'PX', F('%.0f', div_ceil(first - now + div_ceil(missing, amount), 1000) + 1001))
  else
    call('SET', KEYS[i], level)
  end
  reply[1 + i] = div(math.max(burst * period - missing, 0), period)
end
if begins == 1 then call('PUBLISH', ARGV[3], F('rate|%s|%s', KEYS[n + 1], ARGV[4])) end
return reply
