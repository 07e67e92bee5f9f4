-- ARGV: .., member*  -> when to look again (0: nothing known), waiting, then for each its rank (-1: it does not wait)
for i = 3, #ARGV do call('ZADD', X, 'XX', text(now + WAIT_TTL), ARGV[i]) end
bury()
heal()
if waiting > 0 then hand_off('') end
keep()
local first = call('ZRANGEBYSCORE', H, '(' .. text(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local out = { tonumber(first[2]) or 0, waiting }
if waiting > 0 and in_grace() then out[1] = grace_until end
for i = 3, #ARGV do out[#out + 1] = call('ZRANK', W, ARGV[i]) or -1 end
return answer(out)
