-- purpose: Put a dead letter back at the end of its stream, as it was before it failed.
-- KEYS: dead_letters; stream; blocked_groups
-- ARGV: dead_id
-- returns: 1 replayed | 0 there is no such dead letter
local letter = redis.call('XRANGE', dead_letters, dead_id, dead_id)[1]
if not letter then return 0 end
local fields = {}
for i = 1, #letter[2], 2 do
  if string.sub(letter[2][i], 1, 5) ~= 'dead_' then
    fields[#fields + 1] = letter[2][i]
    fields[#fields + 1] = letter[2][i + 1]
  end
end
redis.call('XADD', stream, '*', unpack(fields))
redis.call('XDEL', dead_letters, dead_id)
unblock_group(blocked_groups, letter[2])
return 1
