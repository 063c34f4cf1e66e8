-- purpose: Make dead letters of entries that Redis lost and a process still has, and count them for the groups that they
--   hold up. One that is among the dead letters already is left out, so run twice, nothing changes.
-- KEYS: 1 dead letters; 2 held groups
-- ARGV: 1 limit of the dead letters; 2.. repeated (entry id, reason, group or '', how many words, fields and values)
-- returns: how many were added | -1 the dead letters are full, nothing written
local there, length = {}, 0
for _, letter in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
  length = length + 1
  for index = 1, #letter[2], 2 do
    if letter[2][index] == 'dead_entry' then there[letter[2][index + 1]] = true end
  end
end
local added, index, failed_at = {}, 2, string.format('%.0f', now_ms())
while index <= #ARGV do
  local words, fields, came_as = tonumber(ARGV[index + 3]), {}, ARGV[index]
  for word = index + 4, index + 3 + words, 2 do
    if ARGV[word] == 'was' then
      came_as = ARGV[word + 1]
    else
      fields[#fields + 1] = ARGV[word]
      fields[#fields + 1] = ARGV[word + 1]
    end
  end
  if not there[came_as] then
    for _, text in ipairs({'dead_entry', came_as, 'dead_reason', ARGV[index + 1], 'dead_at', failed_at,
      'dead_group', ARGV[index + 2]}) do
      fields[#fields + 1] = text
    end
    added[#added + 1] = {fields, ARGV[index + 2]}
  end
  index = index + 4 + words
end
if length + #added > tonumber(ARGV[1]) then
  return -1
end
for _, letter in ipairs(added) do
  redis.call('XADD', KEYS[1], '*', unpack(letter[1]))
  if letter[2] ~= '' then redis.call('HINCRBY', KEYS[2], letter[2], 1) end
end
return #added
