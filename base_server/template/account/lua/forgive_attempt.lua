-- purpose: take back one counted login attempt: it succeeded.
-- KEYS: 1 counter
-- ARGV: none
-- returns: attempts still counted
local count = tonumber(redis.call('GET', KEYS[1]) or '0')
if count > 0 then
  return redis.call('DECR', KEYS[1])
end
return 0
