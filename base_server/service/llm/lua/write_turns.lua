-- purpose: append turns to a session's own history, or put them in its place; keep the newest, restart the TTL
-- KEYS: 1 history list
-- ARGV: 1 turns to keep; 2 TTL in seconds; 3 append or replace; 4.. turns, each a JSON text
-- returns: number of turns that the history has now

local usable = redis.call('TYPE', KEYS[1]).ok == 'list'
if ARGV[3] == 'replace' or not usable then
  redis.call('DEL', KEYS[1])
end
for i = 4, #ARGV do
  redis.call('RPUSH', KEYS[1], ARGV[i])
end
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[1]), -1)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('LLEN', KEYS[1])
