-- purpose: Note which run of the server has a partition. In a run other than the noted one the
--   generation rises by one: what was cached before it may be missing or old. Called again with the
--   same run it changes nothing.
-- KEYS: generation of the partition; server_run that it was made in
-- ARGV: run_id of this server
-- returns: the partition's generation, at least 1
-- allow-oom: two short keys of a partition
local known = redis.call('GET', generation)
if known and redis.call('GET', server_run) == run_id then
  return tonumber(known)
end
-- First the run, then the number: nobody reads between them, for a script is one step.
redis.call('SET', server_run, run_id)
return redis.call('INCR', generation)
