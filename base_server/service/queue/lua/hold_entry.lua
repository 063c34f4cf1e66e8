-- purpose: Note how many deliveries of an entry were begun and when the next may be. Run twice, only the time moves.
--   HDEL comes first, for a full Redis refuses only a script's first write.
-- KEYS: 1 lane stream; 2 retries
-- ARGV: 1 entry id; 2 deliveries begun; 3 wait in ms
-- returns: 1 noted | 0 the entry is gone
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ':' .. string.format('%.0f', now_ms() + tonumber(ARGV[3])))
return 1
