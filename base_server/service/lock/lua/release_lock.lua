-- purpose: Give a lock back if the token still has it.
-- KEYS: lock; generation
-- ARGV: token
-- returns: 1 given back | 0 not this token's (its TTL or its Redis run ended)
if not is_held_by(token, holder_of(lock, suffix_of(generation))) then return 0 end
return redis.call('DEL', lock)
