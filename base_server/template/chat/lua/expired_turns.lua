-- purpose: The rooms of a partition whose open turn has a lease that ran out, the oldest first, and the time now.
-- KEYS: 1 leases
-- ARGV: 1 '1' for every open turn, however long its lease; 2 how many rooms at most
-- returns: {now in ms, room_id…}
local now = int(now_ms())
local rooms = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1] == '1' and '+inf' or now, 'LIMIT', 0, ARGV[2])
table.insert(rooms, 1, now)
return rooms
