-- ARGV: .., (slot, token, expiry as last heard, member)*  -> for each the new expiry, or 0: it is lost
-- A lease that has lapsed and was given to nobody is taken up again, and so is one that the server has forgotten, if
-- there is room and the slot was not given away since.
local out = {}
for i = 3, #ARGV, 4 do
  local slot, t, known, member = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3]
  local lease = tonumber(match(member, '^[^|]*|(%d+)|'))
  local last = tonumber(match(call('HGET', M, 's:' .. slot) or '', '^(%d+)|'))
  local expiry = tonumber(call('ZSCORE', H, slot))
  local mine, alive = last == t, expiry and expiry > now
  local may = false
  if mine and alive then
    may = true
  elseif (mine and expiry == 0) or (not mine and (alive or (last and last > t))) then
    may = false -- given back, or somebody else's
  else
    local heard = (mine and expiry) or known > now
    may = heard and (not max or (tonumber(slot) < max and live() < max))
  end
  if may then
    if lease > longest then
      longest = lease
      call('HSET', M, 'lm', text(longest))
    end
    live_until(slot, now + lease)
    if not mine then
      token = most(token, t)
      record(slot, t, member)
    end
    out[#out + 1] = now + lease
  else
    out[#out + 1] = 0
  end
end
heal()
if waiting > 0 then hand_off('') end
keep()
return answer(out)
