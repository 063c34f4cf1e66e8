-- purpose: Move entries with all their fields to the dead letters of their stream, and count them
--   for the groups that they block. Entries that are gone are left out, so run twice, nothing
--   changes.
-- KEYS: stream; dead_letters; attempts; blocked_groups
-- ARGV: limit int of the dead letters; words... of each: entry id, reason, group or ''
-- returns: how many were moved | -1 the dead letters are full, nothing written
-- allow-oom: the reason of each entry that moves
local found = {}
for i = 1, #words, 3 do
  local entry_id, reason, group = unpack(words, i, i + 2)
  local entry = redis.call('XRANGE', stream, entry_id, entry_id)[1]
  if entry then
    found[#found + 1] = { id = entry_id, fields = entry[2], reason = reason, group = group }
  end
end
if redis.call('XLEN', dead_letters) + #found > limit then return -1 end
local failed_at = int(now_ms())
for _, entry in ipairs(found) do
  local fields = as_dead_letter(entry.id, entry.fields, entry.reason, entry.group, failed_at)
  redis.call('HDEL', attempts, entry.id)
  redis.call('XADD', dead_letters, '*', unpack(fields))
  redis.call('XDEL', stream, entry.id)
  block_group(blocked_groups, entry.group)
end
return #found
