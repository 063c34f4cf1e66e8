-- purpose: Start a lock's TTL again if the token still holds it.
-- KEYS: 1 lock; 2 epoch
-- ARGV: 1 token; 2 ttl in ms
-- returns: 1 extended | 0 not this token's (its TTL or its Redis run ended)
-- allow-oom: nothing: the lock is there
local run = '@' .. (redis.call('GET', KEYS[2]) or '')
local holder = redis.call('GET', KEYS[1])
if holder and string.sub(holder, -#run) == run and string.sub(holder, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then
  redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2] .. run, 'PX', ARGV[2])
  return 1
end
return 0
