-- purpose: Move entries with all their fields to the dead letters of their lane, and count them for the groups that
--   they hold up. Entries that are gone are left out, so run twice, nothing changes.
--   One that its owner had put back before keeps its first id (field `was`), and so its place among its group.
-- KEYS: 1 lane stream; 2 dead letters; 3 retries; 4 held groups
-- ARGV: 1 limit of the dead letters; 2.. repeated (entry id, reason, group or '')
-- returns: how many were moved | -1 the dead letters are full, nothing written
-- allow-oom: the reason of each entry that moves
local found = {}
for index = 2, #ARGV, 3 do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[index], ARGV[index])[1]
  if entry then
    found[#found + 1] = {entry[1], entry[2], ARGV[index + 1], ARGV[index + 2]}
  end
end
if redis.call('XLEN', KEYS[2]) + #found > tonumber(ARGV[1]) then
  return -1
end
local failed_at = string.format('%.0f', now_ms())
for _, entry in ipairs(found) do
  local fields, came_as = {}, entry[1]
  for index = 1, #entry[2], 2 do
    if entry[2][index] == 'was' then
      came_as = entry[2][index + 1]
    else
      fields[#fields + 1] = entry[2][index]
      fields[#fields + 1] = entry[2][index + 1]
    end
  end
  for _, text in ipairs({'dead_entry', came_as, 'dead_reason', entry[3], 'dead_at', failed_at, 'dead_group', entry[4]}) do
    fields[#fields + 1] = text
  end
  redis.call('HDEL', KEYS[3], entry[1])
  redis.call('XADD', KEYS[2], '*', unpack(fields))
  redis.call('XDEL', KEYS[1], entry[1])
  if entry[4] ~= '' then redis.call('HINCRBY', KEYS[4], entry[4], 1) end
end
return #found
