-- purpose: Create a room: record, JSON, list, state CREATING then PENDING, and its event, or
--   nothing at all. Called again with the same room_id or client_request_id it answers what it
--   answered first. A host's event brings an id of its own: the caller has asked MySQL for it
--   under a load token, which any write meanwhile took away. Where messages came before their
--   room, only a load can number the next.
-- KEYS: account_record; rooms; order; generation; room_record; room_json; room_state;
--   event_stream; account_load; room_load
-- ARGV: account_db_key; account_id; shard_id; room_id; title as JSON; persona as JSON; payload;
--   client_request_id or ''; request_hash;
--   asked_load of the account in which MySQL did not know the request id, '' = not asked;
--   request_id_time ISO time of a UUIDv7 request id, or ''; backlog_limit int; rooms_limit int;
--   title_version; created_at ISO, '' for now; created_ms the same in ms;
--   load_token of the room, '' for an id made for this room;
--   has_messages flag MySQL has some of the room
-- returns: {0, room, backlog} created | {11, room_id} made before by this request | {1,
--   'account'} not loaded | {4} same request id, other body | {5, load} ask MySQL about the
--   request id | {6, 'backlog'|'rooms'} full | {8} something was written since MySQL was asked |
--   {2} deleted before it was created
local is_cold, account = check_account(account_record, rooms, order, generation, account_db_key,
  { 'load', 'loaded_at' })
if is_cold then return { NOT_LOADED, 'account' } end
if load_token ~= '' then
  if get_text(room_load) ~= load_token then return { WAIT } end
  if is_gone(get_state(room_state)) then return { NOT_FOUND } end
end
if redis.call('EXISTS', room_record) == 1 then return { DUPLICATE, room_id } end
local now = after_latest(order, now_ms())
local at = iso(now)
local created, last_ms = at, int(now)
if created_at ~= '' then created, last_ms = created_at, created_ms end
if client_request_id ~= '' then
  local claim = redis.call('HGET', account_record, 'r:' .. client_request_id)
  if claim then
    local made, hash = string.match(claim, '^([^|]+)|(.*)$')
    if hash ~= request_hash then return { MISMATCH } end
    return { DUPLICATE, made }
  end
  -- A room made before this load is in MySQL, one made since has its claim here. So the answer of
  -- MySQL holds for the load in which it was asked.
  local is_new = asked_load == account.load
    or request_id_time > account.loaded_at and request_id_time <= at
  if not is_new then return { NEEDS_DATABASE, account.load } end
end
if redis.call('XLEN', event_stream) >= backlog_limit then return { FULL, 'backlog' } end
if redis.call('SCARD', rooms) >= rooms_limit then return { FULL, 'rooms' } end

local event = append_event(event_stream, {
  id = room_id, type = 'CHAT_ROOM_CREATE', payload = payload, key = room_id, at = int(now),
  time = created,
})
local room = format_room(room_id, title, persona, created, iso(tonumber(last_ms)), 0)
if has_messages then
  -- A note: the load numbers the messages when this event is in MySQL.
  redis.call('HSET', room_record, 'epoch', NO_GENERATION, 'dirty', event)
else
  redis.call('HSET', room_record, 'format', FORMAT, 'owner', account_db_key, 'account', account_id,
    'shard', shard_id, 'epoch', redis.call('GET', generation), 'title', title,
    'version', title_version, 'persona', persona, 'created', created, 'count', '0',
    'last_ms', last_ms, 'floor', '1', 'floor_at', at, 'len', '0', 'next_seq', '1', 'saved_seq', '0',
    'ahead', '', 'older', '0', 'dirty', event)
  redis.call('SET', room_json, room)
end
set_state(room_state, 'CREATING', now)
set_state(room_state, 'PENDING', now)
redis.call('ZADD', order, last_ms, room_id)
redis.call('HINCRBY', account_record, 'len', redis.call('SADD', rooms, room_id))
redis.call('HSET', account_record, 'dirty', event)
if client_request_id ~= '' then
  redis.call('HSET', account_record, 'r:' .. client_request_id, room_id .. '|' .. request_hash)
  -- A client whose clock runs ahead: from here on its id proves nothing by its time.
  if request_id_time > at then redis.call('HSET', account_record, 'loaded_at', request_id_time) end
end
pin(account_record, rooms, order)
redis.call('DEL', account_load, room_load)
return { OK, room, redis.call('XLEN', event_stream) }
