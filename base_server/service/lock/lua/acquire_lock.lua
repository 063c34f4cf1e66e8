-- purpose: Take a lock if it is free. Called again with the token that has it, it answers what it
--   answered first and starts the TTL again.
-- KEYS: lock; generation
-- ARGV: token; ttl_ms
-- returns: 0 taken | ms until the holder's TTL ends, at least 1
-- allow-oom: one lock
local suffix = suffix_of(generation)
local holder = holder_of(lock, suffix)
if holder and not is_held_by(token, holder) then
  -- One that lasts longer than its TTL was taken before the server's clock was set back: it has its
  -- TTL from now on, and a holder that lives extends it.
  local left_ms, longest_ms = redis.call('PTTL', lock), tonumber(string.match(holder, ':(%d+)@'))
  if longest_ms and left_ms > longest_ms then
    redis.call('PEXPIRE', lock, longest_ms)
    left_ms = longest_ms
  end
  return math.max(1, left_ms)
end
redis.call('SET', lock, token .. ':' .. ttl_ms .. suffix, 'PX', ttl_ms)
return 0
