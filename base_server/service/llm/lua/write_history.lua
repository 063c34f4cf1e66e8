-- purpose: Append messages to a session's own history, or put them in its place; keep the newest,
--   restart the TTL.
-- KEYS: history list
-- ARGV: limit int of messages to keep; ttl_s; mode append or replace; messages... each a JSON text
-- returns: number of messages that the history has now
local is_usable = redis.call('TYPE', history).ok == 'list'
if mode == 'replace' or not is_usable then
  redis.call('DEL', history)
end
for _, message in ipairs(messages) do redis.call('RPUSH', history, message) end
redis.call('LTRIM', history, -limit, -1)
redis.call('EXPIRE', history, ttl_s)
return redis.call('LLEN', history)
