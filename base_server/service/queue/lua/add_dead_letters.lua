-- purpose: Make dead letters of entries that Redis lost and a process still has, and count them for
--   the groups that they block. One that is among the dead letters already is left out, so run
--   twice, nothing changes.
-- KEYS: dead_letters; blocked_groups
-- ARGV: limit int of the dead letters;
--   words... of each: entry id, reason, group or '', how many words, fields and values
-- returns: how many were added | -1 the dead letters are full, nothing written
local known, length = {}, 0
for _, letter in ipairs(redis.call('XRANGE', dead_letters, '-', '+')) do
  length = length + 1
  for i = 1, #letter[2], 2 do
    if letter[2][i] == 'dead_entry' then known[letter[2][i + 1]] = true end
  end
end
local added, i, failed_at = {}, 1, int(now_ms())
while i <= #words do
  local entry_id, reason, group, count = unpack(words, i, i + 3)
  local last = i + 3 + tonumber(count)
  local fields, first_id =
    as_dead_letter(entry_id, { unpack(words, i + 4, last) }, reason, group, failed_at)
  if not known[first_id] then added[#added + 1] = { fields = fields, group = group } end
  i = last + 1
end
if length + #added > limit then return -1 end
for _, letter in ipairs(added) do
  redis.call('XADD', dead_letters, '*', unpack(letter.fields))
  block_group(blocked_groups, letter.group)
end
return #added
