-- purpose: Count one login attempt in a window that begins with the first; an attempt over the
--   limit is not counted, so a window ends even under a constant attack.
-- KEYS: counter
-- ARGV: limit int; window_s
-- returns: 0 = go on | seconds to wait
local count = tonumber(redis.call('GET', counter) or '0')
if count >= limit then
  return math.max(redis.call('TTL', counter), 1)
end
redis.call('INCR', counter)
if count == 0 then
  redis.call('EXPIRE', counter, window_s)
end
return 0
