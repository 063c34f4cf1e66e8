-- purpose: Throw a dead letter away for good. Works when Redis is full.
-- KEYS: 1 dead letters; 2 held groups
-- ARGV: 1 dead letter id
-- returns: 1 dropped | 0 there is no such dead letter
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then
  return 0
end
redis.call('XDEL', KEYS[1], ARGV[1])
let_go(KEYS[2], letter[2])
return 1
