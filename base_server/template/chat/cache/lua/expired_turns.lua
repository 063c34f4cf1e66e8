-- purpose: The rooms of a partition whose open turn has a lease that ran out, the oldest first, and the time now.
--   A lease that ends later than any that can have been given was written before the server's clock was set back: it is
--   shortened to a whole one. Its process renews it before that is over, if it lives.
-- KEYS: 1 leases
-- ARGV: 1 '1' for every open turn, however long its lease; 2 how many rooms at most; 3 longest lease in ms
-- returns: {now in ms, room_id…}
-- allow-oom: nothing: it replaces numbers
local now, longest = now_ms(), tonumber(ARGV[3])
for _, room_id in ipairs(on_leases('ZRANGEBYSCORE', KEYS[1], '(' .. int(now + longest), '+inf', 'LIMIT', 0, ARGV[2])) do
  redis.call('ZADD', KEYS[1], int(now + longest), room_id)
end
local rooms = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1] == '1' and '+inf' or int(now), 'LIMIT', 0, ARGV[2])
table.insert(rooms, 1, int(now))
return rooms
