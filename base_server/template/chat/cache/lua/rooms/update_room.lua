-- purpose: Change a room's title: record, JSON and event, guarded by a version that only grows.
--   It counts half seconds, so that a title that a lost Redis accepted, and that comes to MySQL
--   late, does not win over a later one.
-- KEYS: room_record; messages; room_json; generation; event_stream; room_load; blocked_rooms;
--   done_note that the operation was done
-- ARGV: account_db_key; room_id; title as JSON; payload; operation_id; dead_letters_limit int;
--   note_ttl_ms int; backlog_limit int
-- returns: {0, version, backlog} changed (also when this operation was done before) | {1, 'room'}
--   not loaded | {2} not found | {6, 'dead' | 'backlog'} full
local START_OF_2026_MS = 1767225600000 -- MySQL keeps 31 bits of the version
local refused, room = check_room(room_record, messages, generation, account_db_key,
  { 'version', 'persona', 'created', 'last_ms', 'count' })
if refused then return { refused, 'room' } end
if redis.call('EXISTS', done_note) == 1 then return { OK, tonumber(room.version), 0 } end
local dead_letters = tonumber(redis.call('HGET', blocked_rooms, room_id) or 0)
if dead_letters >= dead_letters_limit then return { FULL, 'dead' } end
if redis.call('XLEN', event_stream) >= backlog_limit then return { FULL, 'backlog' } end
local now = now_ms()
local version = math.max(tonumber(room.version) + 1, math.floor((now - START_OF_2026_MS) / 500))
local event = append_event(event_stream, {
  id = operation_id, type = 'CHAT_ROOM_UPDATE', payload = payload, key = room_id, at = int(now),
  version = int(version),
})
redis.call('HSET', room_record, 'title', title, 'version', int(version), 'dirty', event)
redis.call('SET', done_note, '1', 'PX', note_ttl_ms)
redis.call('SET', room_json, format_room(room_id, title, room.persona, room.created,
  iso(tonumber(room.last_ms)), tonumber(room.count)))
pin(room_record, messages)
redis.call('DEL', room_load)
return { OK, version, redis.call('XLEN', event_stream) }
