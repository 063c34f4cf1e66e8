-- purpose: Start a lock's TTL again if the token still holds it.
-- KEYS: 1 lock
-- ARGV: 1 token; 2 ttl in ms
-- returns: 1 extended | 0 not this token's (its TTL ended)
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
