-- purpose: Take a lock if it is free. Called again with the token that holds it, it answers what it
--   answered first and starts the TTL again.
--   A lock ends with the Redis run in which it was taken (its holder's process may have died with it). One that is held
--   for longer than its TTL was taken before the server's clock was set back: it is held for its TTL from now on, and a
--   holder that lives extends it.
-- KEYS: 1 lock (string: the holder's token : its TTL in ms @ the run's epoch); 2 epoch
-- ARGV: 1 token; 2 ttl in ms
-- returns: 0 taken | ms until the holder's TTL ends, at least 1
-- allow-oom: one lock
local run = '@' .. (redis.call('GET', KEYS[2]) or '')
local holder = redis.call('GET', KEYS[1])
if holder and string.sub(holder, -#run) == run and string.sub(holder, 1, #ARGV[1] + 1) ~= ARGV[1] .. ':' then
  local left, ttl = redis.call('PTTL', KEYS[1]), tonumber(string.match(holder, ':(%d+)@'))
  if ttl and left > ttl then
    redis.call('PEXPIRE', KEYS[1], ttl)
    left = ttl
  end
  return math.max(1, left)
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2] .. run, 'PX', ARGV[2])
return 0
