-- purpose: What a reader of a reply does not have yet: the reply as it stands once it has ended,
--   else the text behind an offset. One step: between two reads of first_seq and list an
--   acknowledgement may trim, and the index is another's.
-- KEYS: room_record; messages; reply_stream; message_state
-- ARGV: reply_seq; reply_id; offset in bytes; limit of deltas
-- returns: {0, message, state or ''} ended | {10, length of the text, {id, {'text', text}}…} runs
--   | {7} deleted, or its room was | {1} not in the window any more
local room = read_fields(room_record, { 'floor', 'gone' })
if room.gone then return { SUPERSEDED } end
local item = find_message_near(messages, room.floor, reply_seq, reply_id)
if not item then return { NOT_LOADED } end
if is_tombstone(item) then return { SUPERSEDED } end
if not is_running(item) then return { OK, item, get_state(message_state) or '' } end
local answer = redis.call('XRANGE', reply_stream, '(' .. offset .. '-0', '+', 'COUNT', limit)
table.insert(answer, 1, stream_length(reply_stream))
table.insert(answer, 1, PARTIAL)
return answer
