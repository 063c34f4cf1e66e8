-- purpose: Give a message that came through the queue its seq in a room that is loaded; for one
--   that is not, leave a note that makes its load wait until this event is in MySQL (the
--   procedure then assigns the seq).
-- KEYS: room_record; messages; room_json; generation; room_load
-- ARGV: room_id; message_id; event_id; at ISO; message_body; account_db_key; shard_id
-- returns: {0, seq} | {1} not loaded: the database assigns | {2} the room is deleted | {9} it is
--   another account's or another shard's
-- allow-oom: the list entry of one message whose event is in Redis already
local room = read_fields(room_record, {
  'epoch', 'len', 'next_seq', 'floor', 'count', 'title', 'persona', 'created', 'last_ms', 'gone',
  'owner', 'shard', 'format',
})
refuse_newer(room.format)
if room.owner and room.owner ~= account_db_key or room.shard and room.shard ~= shard_id then
  return { REFUSED }
end
if room.gone then return { NOT_FOUND } end
-- Its handler may have pushed the message into the list by itself, without a seq.
local is_loaded = room.next_seq and room.epoch == redis.call('GET', generation)
if is_loaded and redis.call('LLEN', messages) > tonumber(room.len) then drop_foreign(messages) end
if not is_loaded or tonumber(room.len) ~= redis.call('LLEN', messages) then
  redis.call('HSET', room_record, 'dirty', event_id)
  if not room.next_seq then redis.call('HSET', room_record, 'epoch', NO_GENERATION) end
  redis.call('PERSIST', room_record)
  -- Without its JSON the list of rooms loads the room again: with this message.
  redis.call('DEL', room_load, room_json)
  return { NOT_LOADED }
end
redis.call('HDEL', room_record, 'foreign_at')
-- Its event was read before, by a process whose batch was cut off.
local index = find_message(messages, message_id)
if index then return { OK, tonumber(room.floor) + index } end
local seq, now = tonumber(room.next_seq), math.max(now_ms(), tonumber(room.last_ms) + 1)
redis.call('RPUSH', messages, format_message(message_id, room_id, seq, at, message_body))
redis.call('HSET', room_record, 'len', int(room.len + 1), 'next_seq', int(seq + 1),
  'count', int(room.count + 1), 'last_ms', int(now), 'dirty', event_id)
redis.call('SET', room_json,
  format_room(room_id, room.title, room.persona, room.created, iso(now), room.count + 1))
pin(room_record, messages)
redis.call('DEL', room_load)
return { OK, seq }
