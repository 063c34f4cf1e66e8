-- purpose: Note how many deliveries of an entry were begun and when the next may be. Run twice,
--   only the time moves.
-- KEYS: stream; attempts
-- ARGV: entry_id; count of deliveries begun; wait_ms int
-- returns: 1 noted | 0 the entry is gone
-- allow-oom: one short field for an entry
if #redis.call('XRANGE', stream, entry_id, entry_id) == 0 then return 0 end
redis.call('HSET', attempts, entry_id, count .. ':' .. int(now_ms() + wait_ms))
return 1
