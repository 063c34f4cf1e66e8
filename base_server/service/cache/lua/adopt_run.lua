-- purpose: Note which run of the server holds a partition. In a run other than the noted one the
--   epoch rises by one: what was cached before it may be missing or old. Called again with the
--   same run it changes nothing.
-- KEYS: 1 epoch of the partition (hash: epoch, run_id)
-- ARGV: 1 run id of this server
-- returns: the partition's epoch, at least 1
if redis.call('HGET', KEYS[1], 'run_id') == ARGV[1] then
  return tonumber(redis.call('HGET', KEYS[1], 'epoch'))
end
redis.call('HSET', KEYS[1], 'run_id', ARGV[1])
return redis.call('HINCRBY', KEYS[1], 'epoch', 1)
