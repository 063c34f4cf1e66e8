-- purpose: Delete a message: a tombstone in its place, its state, the delete event; a reply that
--   runs or waits is ended. For a state call or a host's event (allowed_states) the room need not
--   be loaded if MySQL knows the message: then its load waits for the event. Called again with
--   the same done_note it answers what it answered first.
-- KEYS: room_record; messages; room_json; generation; event_stream; room_load; message_state;
--   leases; waiters; reply_stream of this message; signals;
--   done_note that this call was done, with its states (not by a handler)
-- ARGV: account_db_key; room_id; message_id; stored_seq found in MySQL or ''; payload;
--   ready_lease_ms int;
--   allowed_states csv, a missing one is SENT, '' for a loaded room and any state;
--   new_state '' for the one that its present state leads to; note_ttl_ms int
-- returns: {0, backlog, token that is ready or '', state before, new state} | {11} deleted before
--   | {1, 'room'} not loaded | {2} room not found | {5} not in the window, ask MySQL | {7} no
--   such message | {9, state now} not from this state
local is_by_state = allowed_states ~= ''
if done_note then
  local from, to = string.match(get_text(done_note) or '', '^(%u+) (%u+)$')
  if from then return { OK, 0, '', from, to } end
end
local refused, room = check_room(room_record, messages, generation, account_db_key,
  { 'floor', 'count', 'title', 'persona', 'created', 'last_ms', 'turn', 'next_seq' })
local is_cold = refused == NOT_LOADED
if refused and not (is_cold and is_by_state and stored_seq ~= '') then
  return { refused, 'room' }
end

local first_seq = tonumber(room.floor)
local index, item = find_message(messages, message_id)
local state = get_state(message_state)
if index and is_tombstone(item) then return { DUPLICATE } end
if not index then
  if first_seq == 1 and not is_cold then return { SUPERSEDED } end
  if stored_seq == '' then return { NEEDS_DATABASE } end
  -- A state that a host moved by itself has a TTL; one without belongs to a delete of ours that
  -- is not in MySQL yet.
  if is_gone(state) and (not is_by_state or redis.call('PTTL', message_state) == -1) then
    return { DUPLICATE }
  end
end
if is_by_state and not is_one_of(state or 'SENT', allowed_states) then
  return { REFUSED, state or 'SENT' }
end

local seq = stored_seq ~= '' and tonumber(stored_seq) or first_seq + index
local now = now_ms()
-- Its process finds out at its next delta: the slot has another token by then.
local ready
if room.turn and reply_of(room.turn) == message_id then
  ready = grant_next_slot(room_record, waiters, leases, room_id, now + ready_lease_ms)
else
  for _, waiter in ipairs(redis.call('LRANGE', waiters, 0, -1)) do
    if reply_of(waiter) == message_id then redis.call('LREM', waiters, 1, waiter) end
  end
end
redis.call('DEL', reply_stream, room_load)
if index and is_running(item) then
  redis.call('HDEL', room_record, 'w:' .. message_id)
  notify(signals, 'ended', message_id)
end
if ready then notify(signals, 'ready', reply_of(ready)) end
local event = append_event(event_stream, {
  id = message_id, type = 'CHAT_MESSAGE_DELETE', payload = payload, key = room_id, at = int(now),
  seq = int(seq),
})
local to = new_state
if to == '' then to = (state == 'COMPOSING' or state == 'PENDING') and 'DELETED' or 'DELETING' end
set_state(message_state, to, now)
if done_note then
  redis.call('SET', done_note, (state or 'SENT') .. ' ' .. to, 'PX', note_ttl_ms)
end
if index then redis.call('LSET', messages, index, 'x' .. message_id) end

if is_cold then
  if not room.next_seq then redis.call('HSET', room_record, 'epoch', NO_GENERATION) end
  if index and room.count then redis.call('HINCRBY', room_record, 'count', -1) end
  redis.call('HSET', room_record, 'dirty', event)
  redis.call('PERSIST', room_record)
  -- Without its JSON the list of rooms loads the room again: without this message.
  redis.call('DEL', room_json)
else
  -- Below the window: whether anything visible is left there only MySQL knows.
  if not index then redis.call('HSET', room_record, 'older', '?') end
  local count = room.count - 1
  redis.call('HSET', room_record, 'count', int(count), 'dirty', event)
  redis.call('SET', room_json, format_room(room_id, room.title, room.persona, room.created,
    iso(tonumber(room.last_ms)), count))
  pin(room_record, messages)
end
return { OK, redis.call('XLEN', event_stream), ready and string.match(ready, '^[^|]+') or '',
  state or 'SENT', to }
