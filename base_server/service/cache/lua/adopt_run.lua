-- purpose: Note which run of the server holds a partition. In a run other than the noted one the
--   epoch rises by one: what was cached before it may be missing or old. Called again with the
--   same run it changes nothing.
-- KEYS: 1 epoch of the partition; 2 run id that it was made in
-- ARGV: 1 run id of this server
-- returns: the partition's epoch, at least 1
-- allow-oom: two short keys of a partition
local epoch = redis.call('GET', KEYS[1])
if epoch and redis.call('GET', KEYS[2]) == ARGV[1] then
  return tonumber(epoch)
end
redis.call('SET', KEYS[2], ARGV[1])
return redis.call('INCR', KEYS[1])
