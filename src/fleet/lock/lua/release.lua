-- ARGV: .., (slot, token)*  -> for each whether it was held
local out = {}
for i = 3, #ARGV, 2 do
  local record = call('HGET', M, 's:' .. ARGV[i])
  local done = 0
  if match(record or '', '^(%d+)') == ARGV[i + 1] then done = call('ZADD', H, 'XX', 'CH', 0, ARGV[i]) end
  out[#out + 1] = done
end
if waiting > 0 then hand_off('') end
keep()
return answer(out)
