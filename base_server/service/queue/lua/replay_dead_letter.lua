-- purpose: Put a dead letter back at the end of its lane, as it was before it failed.
-- KEYS: 1 dead letters; 2 lane stream; 3 held groups
-- ARGV: 1 dead letter id
-- returns: 1 replayed | 0 there is no such dead letter
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then
  return 0
end
local fields = {}
for index = 1, #letter[2], 2 do
  if letter[2][index]:sub(1, 5) ~= 'dead_' then
    fields[#fields + 1] = letter[2][index]
    fields[#fields + 1] = letter[2][index + 1]
  end
end
redis.call('XADD', KEYS[2], '*', unpack(fields))
redis.call('XDEL', KEYS[1], ARGV[1])
let_go(KEYS[3], letter[2])
return 1
