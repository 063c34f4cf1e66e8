-- purpose: End a reply whose process knows its text, unless somebody ended it before: the text
--   takes its place in the window, its event is appended, the next waiter gets the slot, the
--   stream gets what it lacks. Works on a record of an older Redis run, or without one: the load
--   waits for it.
-- KEYS: room_record; messages; event_stream; signals; leases; waiters; open_replies; reply_state;
--   reply_stream
-- ARGV: slot_token; room_id; reply_id; reply_seq; message_body; payload_start of an event;
--   reason; ready_lease_ms int; stream_ttl_ms int;
--   unsent_from int byte at which the text begins that is not in the stream; unsent_text;
--   claim_id
-- returns: {0, message, backlog, token that is ready or ''} | {7, message or ''} ended before, by
--   whom came first | {8} another process calls the provider
-- allow-oom: the final message and the event of one running reply, its text at most
--   llmConfig.max_reply_chars
local room = read_fields(room_record, { 'turn_token', 'turn', 'floor', 'turn_phase', 'format' })
refuse_newer(room.format)
local has_slot = room.turn_token == slot_token
-- A process that waited too long, and never took the slot, does not end what another has begun.
if has_slot and not may_write(room.turn_phase, claim_id) then return { WAIT } end
local slot = has_slot and room.turn or find_waiter(waiters, 'token', slot_token)
if not slot then
  local current = find_message_near(messages, room.floor, reply_seq, reply_id)
  return { SUPERSEDED, current and not is_tombstone(current) and current or '' }
end
local keys = {
  room_record = room_record, messages = messages, event_stream = event_stream, signals = signals,
  leases = leases, waiters = waiters, open_replies = open_replies, reply_state = reply_state,
  reply_stream = reply_stream,
}
drop_other_types(keys)
-- Readers find the end in the window: a stream that was not begun, or has lost a part, need not
-- be whole.
local length = stream_length(reply_stream)
if length > 0 and length >= unsent_from then append_text(reply_stream, unsent_from, unsent_text) end
local final, ready, watched_by = put_end(keys, room_id, slot, message_body, payload_start, reason,
  ready_lease_ms, stream_ttl_ms, now_ms())
if watched_by then notify(signals, 'ended', reply_id) end
return { OK, final, redis.call('XLEN', event_stream), ready }
