-- Gives back units, or takes more. `core.rs` says what this does; a test compares both.
-- KEYS: a level for each quota: "missing|at|period"
-- ARGV: now ('' = the server's), then for each quota: amount, period, burst, back, more
-- Replies: {1}
local call, F = redis.call, string.format
local now = tonumber(ARGV[1])
if not now then local t = call('TIME'); now = t[1] * 1000000 + t[2] end
local HIGHEST, STEP_BACK = 4503599627370496, 1000000
-- Exact, where `math.ceil(a / b)` rounds.
local function div(a, b) return (a - math.fmod(a, b)) / b end
local function div_ceil(a, b) local r = math.fmod(a, b); return (a - r) / b + (r > 0 and 1 or 0) end

-- All is read before the first write: an error in the middle is not undone.
local stored = {}
for i = 1, #KEYS do stored[i] = call('GET', KEYS[i]) end
for i = 1, #KEYS do
  local o = 1 + (i - 1) * 5
  local amount, period, burst = tonumber(ARGV[o + 1]), tonumber(ARGV[o + 2]), tonumber(ARGV[o + 3])
  local back, more = tonumber(ARGV[o + 4]), tonumber(ARGV[o + 5])
  local missing, at = 0, now
  if stored[i] then
    local m, a, p = string.match(stored[i], '^(%d+)|(%d+)|(%d+)$')
    missing, at, p = tonumber(m), tonumber(a), tonumber(p)
    if p ~= period then missing = math.min(div_ceil(missing, p), div(HIGHEST, period)) * period end
    if now < at then
      if at - now > STEP_BACK then at = now end
    else
      local elapsed = now - at
      if elapsed >= div_ceil(missing, amount) then missing = 0 else missing = missing - elapsed * amount end
      at = now
    end
  end
  missing = math.max(missing - math.min(back, burst) * period, 0) + math.min(more, burst) * period
  missing = math.min(missing, HIGHEST)
  local level = F('%.0f|%.0f|%.0f', missing, at, period)
  if ARGV[1] == '' then
    call('SET', KEYS[i], level, 'PX', F('%.0f', div_ceil(div_ceil(missing, amount), 1000) + 1001))
  else
    call('SET', KEYS[i], level)
  end
end
return { 1 }
