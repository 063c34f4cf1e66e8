-- purpose: Take finished entries out of their lane. Works when Redis is full; run twice, nothing changes.
-- KEYS: 1 lane stream; 2 retries
-- ARGV: 1.. repeated (entry id)
-- returns: how many of them were still there
local removed = 0
for _, entry_id in ipairs(ARGV) do
  removed = removed + redis.call('XDEL', KEYS[1], entry_id)
  redis.call('HDEL', KEYS[2], entry_id)
end
return removed
