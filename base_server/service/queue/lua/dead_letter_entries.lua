-- purpose: Move entries with all their fields to the dead letters of their lane. Entries that are gone are left out, so run twice, nothing changes.
--   HDEL comes first, for a full Redis refuses only a script's first write.
-- KEYS: 1 lane stream; 2 dead letters; 3 retries
-- ARGV: 1 limit of the dead letters; 2.. repeated (entry id, reason)
-- returns: how many were moved | -1 the dead letters are full, nothing written
local found = {}
for index = 2, #ARGV, 2 do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[index], ARGV[index])[1]
  if entry then
    found[#found + 1] = {entry[1], entry[2], ARGV[index + 1]}
  end
end
if redis.call('XLEN', KEYS[2]) + #found > tonumber(ARGV[1]) then
  return -1
end
local failed_at = string.format('%.0f', now_ms())
for _, entry in ipairs(found) do
  local fields = entry[2]
  for _, text in ipairs({'dead_entry', entry[1], 'dead_reason', entry[3], 'dead_at', failed_at}) do
    fields[#fields + 1] = text
  end
  redis.call('HDEL', KEYS[3], entry[1])
  redis.call('XADD', KEYS[2], '*', unpack(fields))
  redis.call('XDEL', KEYS[1], entry[1])
end
return #found
