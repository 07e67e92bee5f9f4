-- Takes from all quotas, or from none. `core.rs` says what this does; a test compares both.
-- KEYS: a level for each quota: "missing|at|period"; a pause: "until|length"
-- ARGV: now ('' = the server's), max_wait, then for each quota: amount, period, burst, need, want
-- Replies: {1, paused, wait, got.., left..} | {0, paused, quota, wait} | {2, paused, quota}, where the quota that is one too
-- many is a pause
local call, F = redis.call, string.format
local now = tonumber(ARGV[1])
if not now then local t = call('TIME'); now = t[1] * 1000000 + t[2] end
local max_wait = tonumber(ARGV[2])
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

local n = #KEYS - 1
local first = pause_end(KEYS[n + 1])
local paused = first - now
local q, wait, slowest, over = {}, paused, nil, nil
for i = 1, n do
  local o = 2 + (i - 1) * 5
  local amount, period, burst = tonumber(ARGV[o + 1]), tonumber(ARGV[o + 2]), tonumber(ARGV[o + 3])
  local need, want = tonumber(ARGV[o + 4]), tonumber(ARGV[o + 5])
  local missing, at = 0, first
  local stored = call('GET', KEYS[i])
  if stored then
    local m, a, p = string.match(stored, '^(%d+)|(%d+)|(%d+)$')
    missing, at, p = tonumber(m), tonumber(a), tonumber(p)
    if p ~= period then missing = math.min(div_ceil(missing, p), div(HIGHEST, period)) * period end
    if first < at then
      if at - first > STEP_BACK then at = first end
    else
      local elapsed = first - at
      if elapsed >= div_ceil(missing, amount) then missing = 0 else missing = missing - elapsed * amount end
      at = first
    end
  end
  if need > burst then return { 2, paused, i - 1 } end
  local this = paused
  if need > 0 then this = paused + div_ceil(math.max(missing + need * period - burst * period, 0), amount) end
  if this > wait then wait, slowest = this, i - 1 end
  if missing + need * period > HIGHEST then over = over or i - 1 end
  q[i] = { missing = missing, at = at, amount = amount, period = period, burst = burst, need = need, want = want }
end
if wait > max_wait or over then return { 0, paused, slowest or over or n, wait } end

local reply = { 1, paused, wait }
for i = 1, n do
  local it = q[i]
  local units = it.need
  if wait == 0 then
    local left = div(math.max(it.burst * it.period - it.missing, 0), it.period)
    units = math.max(math.min(it.want, left), it.need)
  end
  if units > 0 then
    it.missing = it.missing + units * it.period
    local level = F('%.0f|%.0f|%.0f', it.missing, it.at, it.period)
    if ARGV[1] == '' then
      -- A full bucket need not be remembered; a second more, in case the clock steps back.
      call('SET', KEYS[i], level, 'PX', F('%.0f', div_ceil(paused + div_ceil(it.missing, it.amount), 1000) + 1001))
    else
      call('SET', KEYS[i], level)
    end
  end
  reply[3 + i] = units
  reply[3 + n + i] = div(math.max(it.burst * it.period - it.missing, 0), it.period)
end
return reply
