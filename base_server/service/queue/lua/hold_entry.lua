-- purpose: Note how many deliveries of an entry were begun and when the next may be. Run twice, only the time moves.
-- KEYS: 1 lane stream; 2 retries
-- ARGV: 1 entry id; 2 deliveries begun; 3 wait in ms
-- returns: 1 noted | 0 the entry is gone
-- allow-oom: one short field for an entry
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ':' .. string.format('%.0f', now_ms() + tonumber(ARGV[3])))
return 1
