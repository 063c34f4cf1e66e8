-- purpose: Take finished entries out of their stream. Works when Redis is full; run twice, nothing
--   changes.
-- KEYS: stream; attempts
-- ARGV: entry_ids...
-- returns: how many of them were still there
local removed = 0
for _, entry_id in ipairs(entry_ids) do
  removed = removed + redis.call('XDEL', stream, entry_id)
  redis.call('HDEL', attempts, entry_id)
end
return removed
