-- purpose: Put an account's list of rooms that was read from MySQL into Redis, with a card for each room.
--   The card of a room whose record is loaded is the truth already and only lives on as long as the list.
--   `load` names this load; no request id up to `loaded_at` proves a new room (a client's clock may have run ahead).
--   A state call knows the owner's number from MySQL, and finds the name of this list by it.
--   Rooms with dead letters stand in the list by their record: MySQL may not know them, or only as they were.
-- KEYS: 1 account record; 2 account's rooms; 3 account's order; 4 epoch; 5 account load token; 6 prefix of room records; 7 prefix of room cards; 8 prefix of room states; 9 rooms with dead letters; 10 the account's name by its number
-- ARGV: 1 token; 2 epoch at the load's start; 3 TTL in ms; 4 account_db_key; 5 ISO time of the account's latest UUIDv7 request id or ''; 6 account_id; 7 TTL of the name in ms; 8.. (room_id, last activity ms, title JSON, persona JSON, created ISO, count, client_request_id, request hash) a room
-- returns: {0} filled | {7} a write or another load came first
if redis.call('GET', KEYS[5]) ~= ARGV[1] or redis.call('GET', KEYS[4]) ~= ARGV[2] then return { LOST } end
if redis.call('EXISTS', KEYS[1]) == 1 then return { LOST } end
local now, ttl = now_ms(), tonumber(ARGV[3])
redis.call('DEL', KEYS[2], KEYS[3], KEYS[5])
local len = 0
for i = 8, #ARGV, 8 do
  local room_id, room_card = ARGV[i], KEYS[7] .. ARGV[i]
  if not is_gone(get_state(KEYS[8] .. room_id)) then
    len = len + 1
    redis.call('SADD', KEYS[2], room_id)
    redis.call('ZADD', KEYS[3], ARGV[i + 1], room_id)
    if redis.call('HGET', KEYS[6] .. room_id, 'epoch') == ARGV[2] and redis.call('EXISTS', room_card) == 1 then
      if redis.call('PTTL', room_card) >= 0 then redis.call('PEXPIRE', room_card, int(ttl)) end
    else
      redis.call('SET', room_card, card(room_id, ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], tonumber(ARGV[i + 1]),
        tonumber(ARGV[i + 5])), 'PX', int(ttl))
    end
    if ARGV[i + 6] ~= '' then redis.call('HSET', KEYS[1], 'r:' .. ARGV[i + 6], room_id .. '|' .. ARGV[i + 7]) end
  end
end
for _, room_id in ipairs(redis.call('HKEYS', KEYS[9])) do
  local v = redis.call('HMGET', KEYS[6] .. room_id, 'owner', 'gone', 'title', 'persona', 'created', 'last_ms', 'count')
  if v[1] == ARGV[4] and not v[2] and v[3] then
    len = len + redis.call('SADD', KEYS[2], room_id)
    redis.call('ZADD', KEYS[3], v[6], room_id)
    redis.call('SET', KEYS[7] .. room_id, card(room_id, v[3], v[4], v[5], tonumber(v[6]), tonumber(v[7])))
  end
end
redis.call('HSET', KEYS[1], 'format', FORMAT, 'epoch', ARGV[2], 'owner', ARGV[4], 'len', int(len), 'load', ARGV[1],
  'loaded_at', ARGV[5] > iso(now) and ARGV[5] or iso(now), 'cards_until', int(now + ttl))
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], int(ttl)) end
redis.call('SET', KEYS[10], ARGV[6], 'PX', ARGV[7])
return { OK }
