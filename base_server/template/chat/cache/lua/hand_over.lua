-- purpose: Give back a slot that was taken, or kept for a place among the calls, and not used: its process stops before
--   it has called the provider.
-- KEYS: 1 room record; 2 leases; 3 news
-- ARGV: 1 turn token; 2 room_id; 3 claim id; 4 ready lease in ms
-- returns: 1 another process may take it | 0 it was not this claim's
-- allow-oom: nothing: it replaces values
local v = redis.call('HMGET', KEYS[1], 'turn_token', 'turn_phase', 'turn', 'format')
refuse_newer(v[4])
if v[1] ~= ARGV[1] or not may_write(v[2], ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], 'turn_phase', 'ready')
on_leases('ZADD', KEYS[2], int(now_ms() + tonumber(ARGV[4])), ARGV[2])
tell(KEYS[3], 'ready', string.match(v[3], '^[^|]+|([^|]+)'))
return 1
