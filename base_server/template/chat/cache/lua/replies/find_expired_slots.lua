-- purpose: The rooms of a partition whose open slot has a lease that ran out, the oldest first,
--   and the time now. A lease that ends later than any that can have been given was written
--   before the server's clock was set back: it is shortened to a whole one. Its process renews it
--   before that is over, if it lives.
-- KEYS: leases
-- ARGV: all_open flag every open slot, however long its lease; limit int of rooms;
--   longest_lease_ms int
-- returns: {now in ms, room_id…}
-- allow-oom: nothing: it replaces numbers
local now = now_ms()
local latest = int(now + longest_lease_ms)
local too_late = on_leases('ZRANGEBYSCORE', leases, '(' .. latest, '+inf', 'LIMIT', 0, limit)
for _, room_id in ipairs(too_late) do redis.call('ZADD', leases, latest, room_id) end
local until_ms = all_open and '+inf' or int(now)
local answer = redis.call('ZRANGEBYSCORE', leases, '-inf', until_ms, 'LIMIT', 0, limit)
table.insert(answer, 1, int(now))
return answer
