-- purpose: A reply as it stands in the window, and whether it is missing because it was deleted or because the window
--   went on. One step: between two reads of floor and list a settle may trim, and the place is another's.
-- KEYS: 1 room record; 2 messages
-- ARGV: 1 reply seq; 2 reply id
-- returns: {0, entry} | {7} deleted, or its room was | {1} not in the window any more
local v = redis.call('HMGET', KEYS[1], 'floor', 'gone')
if v[2] then return { LOST } end
local offset = v[1] and tonumber(ARGV[1]) - tonumber(v[1]) or -1
local item = offset >= 0 and redis.call('LINDEX', KEYS[2], offset) or ''
if item == '' or not item or entry_id(item) ~= ARGV[2] then return { COLD } end
return is_tombstone(item) and { LOST } or { OK, item }
