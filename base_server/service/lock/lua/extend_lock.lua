-- purpose: Start a lock's TTL again if the token still holds it.
-- KEYS: 1 lock; 2 epoch
-- ARGV: 1 token; 2 ttl in ms
-- returns: 1 extended | 0 not this token's (its TTL or its Redis run ended)
if redis.call('GET', KEYS[1]) == ARGV[1] .. '@' .. (redis.call('GET', KEYS[2]) or '') then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
