-- purpose: Throw a dead letter away permanently. Works when Redis is full.
-- KEYS: dead_letters; blocked_groups
-- ARGV: dead_id
-- returns: 1 dropped | 0 there is no such dead letter
local letter = redis.call('XRANGE', dead_letters, dead_id, dead_id)[1]
if not letter then return 0 end
redis.call('XDEL', dead_letters, dead_id)
unblock_group(blocked_groups, letter[2])
return 1
