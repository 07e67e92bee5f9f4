-- ARGV: .., max, version ('': the next one)  -> what is in force then
local new = tonumber(ARGV[4]) or version + 1
if new > version then
  max, version = tonumber(ARGV[3]), new
  call('HSET', M, 'max', ARGV[3], 'ver', text(new))
  if waiting > 0 then hand_off('') end
  keep()
end
return answer({})
