-- purpose: End a reply from outside its process, running or queued, with what its stream holds:
--   for its account ('stopped'), for the sweeper and for a load ('interrupted'). Called again it
--   answers the reply as it stands. Without an account it works on a record of an older Redis
--   run, or without one: the load waits for it.
-- KEYS: room_record; messages; event_stream; signals; leases; waiters; open_replies; reply_state;
--   reply_stream; generation
-- ARGV: account_db_key '' for none; room_id; reply_id; reason; ready_lease_ms int;
--   stream_ttl_ms int; only_if_expired flag the lease has run out; payload_start of an event
-- returns: {0, message, state, backlog, token that is ready or ''} | {11, message, state} ended
--   before | {1, 'room'} not loaded | {2} not found | {5} not in the window, ask MySQL | {7} no
--   such message, or deleted | {8} the lease still runs
-- allow-oom: the final message and the event of one running reply, with the text that its stream
--   holds
local refused, room
if account_db_key == '' then
  room = read_fields(room_record, { 'turn', 'floor', 'format' })
  refuse_newer(room.format)
else
  refused, room = check_room(room_record, messages, generation, account_db_key, { 'turn', 'floor' })
  if refused then return { refused, 'room' } end
end
local now = now_ms()
local has_slot = room.turn and reply_of(room.turn) == reply_id
local slot = has_slot and room.turn or find_waiter(waiters, 'reply', reply_id)
if not slot then
  local index, item = find_message(messages, reply_id)
  if not index then return { room.floor == '1' and SUPERSEDED or NEEDS_DATABASE } end
  if is_tombstone(item) then return { SUPERSEDED } end
  return { DUPLICATE, item, get_state(reply_state) or '' }
end
-- Its process renewed the lease since the sweeper looked: it lives.
if only_if_expired then
  local lease = on_leases('ZSCORE', leases, room_id)
  if lease and tonumber(lease) > now then return { WAIT } end
end
local final, ready = put_early_end({
  room_record = room_record, messages = messages, event_stream = event_stream, signals = signals,
  leases = leases, waiters = waiters, open_replies = open_replies, reply_state = reply_state,
  reply_stream = reply_stream,
}, room_id, slot, reason, payload_start, ready_lease_ms, stream_ttl_ms, now)
return { OK, final, get_state(reply_state), redis.call('XLEN', event_stream), ready }
