-- purpose: Put an account's list of rooms that was read from MySQL into Redis, with the JSON of
--   each room. Of a room whose record is loaded that is the truth already and only lives on as
--   long as the list. No request id up to `loaded_at` proves a new room (a client's clock may
--   have run ahead). A state call knows the account's number from MySQL, and finds the name of
--   this list by it. Rooms with dead letters stand in the list by their record: MySQL may not
--   know them, or only as they were.
-- KEYS: account_record; rooms; order; generation; account_load;
--   room_records prefix of room records; room_jsons prefix of the rooms' JSON;
--   room_states prefix of room states; blocked_rooms; account_name by its number
-- ARGV: token that names this load; begun_in generation at the load's start; ttl_ms int;
--   account_db_key;
--   latest_request_time ISO time of the account's latest UUIDv7 request id, or ''; account_id;
--   name_ttl_ms int;
--   rows... of each room: id, last activity ms, title JSON, persona JSON, created ISO, count,
--     client_request_id, request hash
-- returns: {0} loaded | {7} a write or another load came first
if redis.call('GET', account_load) ~= token or redis.call('GET', generation) ~= begun_in then
  return { SUPERSEDED }
end
if redis.call('EXISTS', account_record) == 1 then return { SUPERSEDED } end
local now = now_ms()
redis.call('DEL', rooms, order, account_load)
local length = 0
for i = 1, #rows, 8 do
  local room_id, last_ms, title, persona, created, count, request_id, request_hash =
    unpack(rows, i, i + 7)
  -- Deleted in Redis, and the delete is not in MySQL yet.
  if not is_gone(get_state(room_states .. room_id)) then
    local room_json = room_jsons .. room_id
    length = length + 1
    redis.call('SADD', rooms, room_id)
    redis.call('ZADD', order, last_ms, room_id)
    local is_loaded = redis.call('HGET', room_records .. room_id, 'epoch') == begun_in
    if is_loaded and redis.call('EXISTS', room_json) == 1 then
      if redis.call('PTTL', room_json) >= 0 then redis.call('PEXPIRE', room_json, ttl_ms) end
    else
      redis.call('SET', room_json, format_room(room_id, title, persona, created,
        iso(tonumber(last_ms)), tonumber(count)), 'PX', ttl_ms)
    end
    if request_id ~= '' then
      redis.call('HSET', account_record, 'r:' .. request_id, room_id .. '|' .. request_hash)
    end
  end
end
for _, room_id in ipairs(redis.call('HKEYS', blocked_rooms)) do
  local room = read_fields(room_records .. room_id,
    { 'owner', 'gone', 'title', 'persona', 'created', 'last_ms', 'count' })
  if room.owner == account_db_key and not room.gone and room.title then
    length = length + redis.call('SADD', rooms, room_id)
    redis.call('ZADD', order, room.last_ms, room_id)
    redis.call('SET', room_jsons .. room_id, format_room(room_id, room.title, room.persona,
      room.created, iso(tonumber(room.last_ms)), tonumber(room.count)))
  end
end
local loaded_at = iso(now)
redis.call('HSET', account_record, 'format', FORMAT, 'epoch', begun_in, 'owner', account_db_key,
  'len', int(length), 'load', token,
  'loaded_at', latest_request_time > loaded_at and latest_request_time or loaded_at,
  'cards_until', int(now + ttl_ms))
for _, key in ipairs({ account_record, rooms, order }) do redis.call('PEXPIRE', key, ttl_ms) end
redis.call('SET', account_name, account_id, 'PX', name_ttl_ms)
return { OK }
