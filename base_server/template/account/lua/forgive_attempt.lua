-- purpose: Take back one counted login attempt: it succeeded.
-- KEYS: counter
-- ARGV: none
-- returns: attempts still counted
local count = tonumber(redis.call('GET', counter) or '0')
if count > 0 then
  return redis.call('DECR', counter)
end
return 0
