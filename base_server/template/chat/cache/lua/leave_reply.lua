-- purpose: A process lets go of a reply that is not its own any more. One that is over (deleted, or its room's record was
--   lost) is open no more, and its stream ends; one that another process took up tells of its text, for who reads it here.
-- KEYS: 1 room record; 2 account's open replies; 3 reply stream
-- ARGV: 1 turn token; 2 reply id; 3 stream TTL in ms
-- returns: 0 it is over | 1 it goes on in another process
-- allow-oom: one field of a record
local v = redis.pcall('HMGET', KEYS[1], 'turn_token', 'format')
if v[1] == ARGV[1] then
  refuse_newer(v[2])
  redis.call('HSET', KEYS[1], 'w:' .. ARGV[2], 'text')
  return 1
end
redis.pcall('ZREM', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return 0
