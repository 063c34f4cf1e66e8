-- purpose: Give a lock back if the token still holds it.
-- KEYS: 1 lock; 2 epoch
-- ARGV: 1 token
-- returns: 1 given back | 0 not this token's (its TTL or its Redis run ended)
local run = '@' .. (redis.call('GET', KEYS[2]) or '')
local holder = redis.call('GET', KEYS[1])
if holder and string.sub(holder, -#run) == run and string.sub(holder, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then
  return redis.call('DEL', KEYS[1])
end
return 0
