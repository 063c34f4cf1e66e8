-- purpose: Start a lock's TTL again if the token still has it.
-- KEYS: lock; generation
-- ARGV: token; ttl_ms
-- returns: 1 extended | 0 not this token's (its TTL or its Redis run ended)
-- allow-oom: nothing: the lock is there
local suffix = suffix_of(generation)
if not is_held_by(token, holder_of(lock, suffix)) then return 0 end
redis.call('SET', lock, token .. ':' .. ttl_ms .. suffix, 'PX', ttl_ms)
return 1
