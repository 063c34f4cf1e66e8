-- purpose: Note which run of the server holds a partition. In a run other than the noted one the
--   generation rises by one: what was cached before it may be missing or old. Called again with
--   the same run it changes nothing.
-- KEYS: 1 generation of the partition; 2 id of the run that it was made in
-- ARGV: 1 run id of this server
-- returns: the partition's generation, at least 1
-- allow-oom: two short keys of a partition
local generation = redis.call('GET', KEYS[1])
if generation and redis.call('GET', KEYS[2]) == ARGV[1] then
  return tonumber(generation)
end
-- First the run, then the number: nobody reads between them, for a script is one step.
redis.call('SET', KEYS[2], ARGV[1])
return redis.call('INCR', KEYS[1])
