-- purpose: count one login attempt in a window that begins with the first; an attempt over the
--   limit is not counted, so a window ends even under a constant attack.
-- KEYS: 1 counter
-- ARGV: 1 limit; 2 window in seconds
-- returns: 0 = go on | seconds to wait
local count = tonumber(redis.call('GET', KEYS[1]) or '0')
if count >= tonumber(ARGV[1]) then
  return math.max(redis.call('TTL', KEYS[1]), 1)
end
redis.call('INCR', KEYS[1])
if count == 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return 0
