-- purpose: Delete a room permanently: its record becomes a tombstone, its keys and its slots go,
--   the delete event is appended. For a state call or a host's event (allowed_states) neither
--   room nor account need be loaded: what is not here need not go, and a load finds the tombstone
--   or the state, which stay until MySQL has the delete. Called again with the same done_note it
--   answers what it answered first.
-- KEYS: room_record; messages; room_json; generation; event_stream; room_load; room_state;
--   account_record; rooms; order; account_load; waiters; leases;
--   reply_streams prefix of the room's reply streams; message_states prefix of message states;
--   signals; done_note that this call was done, with the state before (not by a handler)
-- ARGV: account_db_key; room_id; payload; state_ttl_ms int;
--   allowed_states csv, a missing one is ACTIVE, '' for a loaded room of any state; new_state;
--   note_ttl_ms int
-- returns: {0, backlog, state before} deleted | {11, state now or ''} deleted before | {1,
--   'room'|'account'} not loaded | {2} not found | {9, state now} not from this state
local done = done_note and get_text(done_note)
if done then return { OK, 0, done } end
local is_by_state = allowed_states ~= ''
local refused, room = check_room(room_record, messages, generation, account_db_key, { 'turn' })
local state = get_state(room_state)
if room.gone and room.owner == account_db_key then return { DUPLICATE, state or '' } end
local is_listed = not check_account(account_record, rooms, order, generation, account_db_key, {})
if is_by_state then
  if room.owner and room.owner ~= account_db_key then return { NOT_FOUND } end
  state = state or 'ACTIVE'
  if not is_one_of(state, allowed_states) then return { REFUSED, state } end
else
  if refused then return { refused, 'room' } end
  if not is_listed then return { NOT_LOADED, 'account' } end
end

local now = now_ms()
-- Replies that run or wait end as deleted; their processes find out at their next call.
local open = redis.call('LRANGE', waiters, 0, -1)
if room.turn then table.insert(open, 1, room.turn) end
for _, slot in ipairs(open) do
  local reply_id = reply_of(slot)
  set_state(message_states .. reply_id, 'DELETED', now, state_ttl_ms)
  redis.call('DEL', reply_streams .. reply_id)
  notify(signals, 'ended', reply_id)
end
local event = append_event(event_stream, {
  id = room_id, type = 'CHAT_ROOM_DELETE', payload = payload, key = room_id, at = int(now),
})
-- Without a TTL: a load between here and the commit would bring the room back.
redis.call('DEL', room_record, messages, room_json, room_load, waiters, account_load)
redis.call('HSET', room_record, 'owner', account_db_key, 'gone', '1', 'dirty', event)
on_leases('ZREM', leases, room_id)
set_state(room_state, new_state, now)
if done_note then redis.call('SET', done_note, state, 'PX', note_ttl_ms) end
if is_listed then
  unlist_room(account_record, rooms, order, room_id)
  redis.call('HSET', account_record, 'dirty', event)
  pin(account_record, rooms, order)
end
return { OK, redis.call('XLEN', event_stream), state or 'ACTIVE' }
