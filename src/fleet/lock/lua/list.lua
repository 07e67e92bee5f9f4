-- -> waiting, live, how many of these are named, for each of those (slot, token, expiry, member): the first thousand to end;
-- then for each of the first hundred waiters (member, ticket)
local out = { waiting, live(), 0 }
local held = call('ZRANGEBYSCORE', H, '(' .. text(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1000)
for i = 1, #held, 2 do
  local t, member = match(call('HGET', M, 's:' .. held[i]) or '', '^(%d+)|(.*)$')
  out[#out + 1] = tonumber(held[i])
  out[#out + 1] = tonumber(t) or 0
  out[#out + 1] = tonumber(held[i + 1])
  out[#out + 1] = member or ''
  out[3] = out[3] + 1
end
local queue = call('ZRANGE', W, 0, 99, 'WITHSCORES')
for i = 1, #queue, 2 do
  out[#out + 1] = queue[i]
  out[#out + 1] = tonumber(queue[i + 1])
end
return answer(out)
