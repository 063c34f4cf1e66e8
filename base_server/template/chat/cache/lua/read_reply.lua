-- purpose: What a reader of a reply does not have yet: the reply as it stands once it has ended, else the text behind an
--   offset. One step: between two reads of floor and list a settle may trim, and the place is another's.
-- KEYS: 1 room record; 2 messages; 3 reply stream; 4 message state
-- ARGV: 1 reply seq; 2 reply id; 3 offset in bytes; 4 how many deltas at most
-- returns: {0, entry, state or ''} ended | {10, length of the text, {id, {'text', text}}…} runs | {7} deleted, or its room was | {1} not in the window any more
local v = redis.call('HMGET', KEYS[1], 'floor', 'gone')
if v[2] then return { LOST } end
local item = find_placed(KEYS[2], v[1], ARGV[1], ARGV[2])
if not item then return { COLD } end
if is_tombstone(item) then return { LOST } end
if not is_running(item) then return { OK, item, get_state(KEYS[4]) or '' } end
local answer = redis.call('XRANGE', KEYS[3], '(' .. ARGV[3] .. '-0', '+', 'COUNT', ARGV[4])
table.insert(answer, 1, stream_length(KEYS[3]))
table.insert(answer, 1, PARTIAL)
return answer
