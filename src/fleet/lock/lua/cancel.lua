-- ARGV: .., member*  -> for each 0: unknown, 1: has left the queue, 2: has given back what it had
local out = {}
for i = 3, #ARGV do
  local done = 0
  call('ZREM', X, ARGV[i])
  if call('ZREM', W, ARGV[i]) == 1 then
    waiting = waiting - 1
    done = 1
  else
    local slot = find(ARGV[i])
    if slot then
      call('ZADD', H, 'XX', 0, slot)
      done = 2
    end
  end
  out[#out + 1] = done
end
if waiting > 0 then hand_off('') end
return answer(out)
