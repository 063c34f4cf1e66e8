-- purpose: Create a room: record, card, list, state CREATING then PENDING, and its persistence event, or nothing at all.
--   Called again with the same room_id or client_request_id it answers what it answered first.
--   A host's event brings an id of its own: the caller has asked MySQL for it under a load token (ARGV 17), which any
--   write meanwhile took away. Where messages came before their room, only a load can number the next (ARGV 18).
-- KEYS: 1 account record; 2 account's rooms; 3 account's order; 4 epoch; 5 room record; 6 room card; 7 room state; 8 persistence lane; 9 account load token; 10 room load token
-- ARGV: 1 account_db_key; 2 account_id; 3 shard_id; 4 room_id; 5 title as JSON; 6 persona as JSON; 7 event payload; 8 client_request_id or ''; 9 request hash; 10 the load of the account in which MySQL did not know the request id, '' when it was not asked; 11 ISO time of a UUIDv7 request id or ''; 12 backlog limit; 13 rooms limit; 14 version of the title; 15 ISO time of its creation, '' for now; 16 that in ms; 17 room load token, '' for an id made for this room; 18 '1' when MySQL has messages of the room
-- returns: {0, card, backlog} created | {11, room_id} made before by this request | {1, 'account'} cold | {4} same request id, other body | {5, load} ask MySQL about the request id | {6} backlog or rooms at the limit | {8} something was written since MySQL was asked | {2} deleted before it was created
local owner, room_id, request_id = ARGV[1], ARGV[4], ARGV[8]
if check_account(KEYS[1], KEYS[2], KEYS[3], KEYS[4], owner) then return { COLD, 'account' } end
if ARGV[17] ~= '' then
  if get_text(KEYS[10]) ~= ARGV[17] then return { WAIT } end
  if is_gone(get_state(KEYS[7])) then return { NOT_FOUND } end
end
if redis.call('EXISTS', KEYS[5]) == 1 then return { REPEAT, room_id } end
local now = after_latest(KEYS[3], now_ms())
local at = iso(now)
local created, last_ms = at, int(now)
if ARGV[15] ~= '' then created, last_ms = ARGV[15], ARGV[16] end
if request_id ~= '' then
  local claim = redis.call('HGET', KEYS[1], 'r:' .. request_id)
  if claim then
    local made, hash = string.match(claim, '^([^|]+)|(.*)$')
    if hash ~= ARGV[9] then return { MISMATCH } end
    return { REPEAT, made }
  end
  -- A room made before this load is in MySQL, one made since has its claim here.
  local load = redis.call('HMGET', KEYS[1], 'load', 'loaded_at')
  if ARGV[10] ~= load[1] and not (ARGV[11] > load[2] and ARGV[11] <= at) then return { UNSURE, load[1] } end
end
if redis.call('XLEN', KEYS[8]) >= tonumber(ARGV[12]) then return { FULL, 'backlog' } end
if redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[13]) then return { FULL, 'rooms' } end

local event = redis.call('XADD', KEYS[8], '*', 'id', room_id, 'type', 'CHAT_ROOM_CREATE', 'payload', ARGV[7],
  'priority', '2', 'key', room_id, 'at', int(now), 'time', created)
local room_card = card(room_id, ARGV[5], ARGV[6], created, tonumber(last_ms), 0)
if ARGV[18] == '1' then
  redis.call('HSET', KEYS[5], 'epoch', NO_GENERATION, 'dirty', event)
else
  redis.call('HSET', KEYS[5], 'format', FORMAT, 'owner', owner, 'account', ARGV[2], 'shard', ARGV[3],
    'epoch', redis.call('GET', KEYS[4]), 'title', ARGV[5], 'version', ARGV[14], 'persona', ARGV[6], 'created', created,
    'count', '0', 'last_ms', last_ms, 'floor', '1', 'floor_at', at, 'len', '0', 'next_seq', '1', 'saved_seq', '0',
    'ahead', '', 'older', '0', 'dirty', event)
  redis.call('SET', KEYS[6], room_card)
end
set_state(KEYS[7], 'CREATING', now)
set_state(KEYS[7], 'PENDING', now)
redis.call('ZADD', KEYS[3], last_ms, room_id)
redis.call('HINCRBY', KEYS[1], 'len', redis.call('SADD', KEYS[2], room_id))
redis.call('HSET', KEYS[1], 'dirty', event)
if request_id ~= '' then
  redis.call('HSET', KEYS[1], 'r:' .. request_id, room_id .. '|' .. ARGV[9])
  if ARGV[11] > at then redis.call('HSET', KEYS[1], 'loaded_at', ARGV[11]) end
end
pin(KEYS[1], KEYS[2], KEYS[3])
redis.call('DEL', KEYS[9], KEYS[10])
return { OK, room_card, redis.call('XLEN', KEYS[8]) }
