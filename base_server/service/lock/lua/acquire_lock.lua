-- purpose: Take a lock if it is free. Called again with the token that holds it, it answers what it
--   answered first and starts the TTL again.
--   A lock ends with the Redis run in which it was taken (its holder's process may have died with it).
-- KEYS: 1 lock (string: the holder's token @ the run's epoch); 2 epoch
-- ARGV: 1 token; 2 ttl in ms
-- returns: 0 taken | ms until the holder's TTL ends, at least 1
-- allow-oom: one lock
local run = '@' .. (redis.call('GET', KEYS[2]) or '')
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] .. run and string.sub(holder, -#run) == run then
  return math.max(1, redis.call('PTTL', KEYS[1]))
end
redis.call('SET', KEYS[1], ARGV[1] .. run, 'PX', ARGV[2])
return 0
