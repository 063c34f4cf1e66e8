-- purpose: Throw dead letters of a room away permanently. MySQL will never have what their events
--   changed in Redis: when the last one is gone, the room and its account's list count as of an
--   older run and are read from MySQL again. What was deleted stays so: a dropped delete leaves
--   its state, or the deleted room's record, without a TTL.
-- KEYS: dead_letters; event_stream; blocked_rooms; room_record; messages; room_json;
--   account_record; rooms; order;
--   states... of the messages that the dead letters would have saved
-- ARGV: room_id; window_ttl_ms int; list_ttl_ms int of the rooms' JSON and of room lists;
--   state_ttl_ms int; letters... of each: dead letter id, '1' when it has a state among `states`
-- returns: {dead letters dropped, dead letters left}
local now = now_ms()
refuse_newer(redis.call('HGET', room_record, 'format'))
refuse_newer(redis.call('HGET', account_record, 'format'))
local dropped, next_state = 0, 1
for i = 1, #letters, 2 do
  local gone = redis.call('XDEL', dead_letters, letters[i])
  dropped = dropped + gone
  if letters[i + 1] == '1' then
    local key = states[next_state]
    local text = get_text(key)
    local state = state_of(text)
    local is_unsaved = state == 'PENDING' or state == 'PROCESSING'
      or state == 'SENT' and room_of(text)
    if gone == 1 and is_unsaved then set_state(key, 'DELETED', now, state_ttl_ms) end
    next_state = next_state + 1
  end
end

local left = 0
each_event(dead_letters, function(_, _, fields)
  if fields.dead_group == room_id then left = left + 1 end
end)
set_dead_letters(blocked_rooms, room_id, left)

-- Whether MySQL has everything else of the record.
local function is_written(last_event)
  return not last_event or #redis.call('XRANGE', event_stream, last_event, last_event) == 0
end

local room = read_fields(room_record, { 'next_seq', 'gone', 'dirty', 'turn_token' })
if room.next_seq and not room.gone then
  if left > 0 then
    redis.call('HSET', room_record, 'dropped', '1')
  else
    redis.call('HDEL', room_record, 'dropped')
    redis.call('HSET', room_record, 'epoch', STALE_GENERATION)
    -- An open reply is nowhere but here: its room stays until it has ended.
    if is_written(room.dirty) and not room.turn_token then
      redis.call('PEXPIRE', room_record, window_ttl_ms)
      redis.call('PEXPIRE', messages, window_ttl_ms)
      redis.call('PEXPIRE', room_json, list_ttl_ms)
    end
  end
elseif not room.gone and left == 0 and is_written(room.dirty) then
  redis.call('DEL', room_record)
end
if redis.call('HEXISTS', account_record, 'len') == 1 then
  redis.call('HSET', account_record, 'epoch', STALE_GENERATION)
  if is_written(redis.call('HGET', account_record, 'dirty')) then
    for _, key in ipairs({ account_record, rooms, order }) do
      redis.call('PEXPIRE', key, list_ttl_ms)
    end
  end
end
return { dropped, left }
