-- purpose: Delete a room for good: its record becomes a tombstone, its keys and its turns go, the delete event is queued.
-- KEYS: 1 room record; 2 messages; 3 room card; 4 epoch; 5 persistence lane; 6 room load token; 7 room state; 8 account record; 9 account's rooms; 10 account's order; 11 account load token; 12 turns; 13 leases; 14 prefix of the room's reply streams; 15 prefix of message states; 16 news
-- ARGV: 1 account_db_key; 2 room_id; 3 event payload; 4 state TTL in ms
-- returns: {0, backlog} deleted | {11} deleted before | {1, 'room'|'account'} cold | {2} not found
local rec, room_id = KEYS[1], ARGV[2]
local known = redis.call('HMGET', rec, 'owner', 'gone')
if known[2] and known[1] == ARGV[1] then return { REPEAT } end
local refused = check_room(rec, KEYS[2], KEYS[4], ARGV[1])
if refused then return { refused, 'room' } end
if check_account(KEYS[8], KEYS[9], KEYS[10], KEYS[4], ARGV[1]) then return { COLD, 'account' } end
local now = now_ms()
local answer = { OK, 0 }
local open = redis.call('LRANGE', KEYS[12], 0, -1)
local turn = redis.call('HGET', rec, 'turn')
if turn then table.insert(open, 1, turn) end
for _, item in ipairs(open) do
  local reply_id = string.match(item, '^[^|]+|([^|]+)')
  set_state(KEYS[15] .. reply_id, 'DELETED', now, ARGV[4])
  redis.call('DEL', KEYS[14] .. reply_id)
  tell(KEYS[16], 'ended', reply_id)
end
local event = redis.call('XADD', KEYS[5], '*', 'id', room_id, 'type', 'CHAT_ROOM_DELETE', 'payload', ARGV[3],
  'priority', '2', 'key', room_id, 'at', int(now))
redis.call('DEL', rec, KEYS[2], KEYS[3], KEYS[6], KEYS[12], KEYS[11])
redis.call('HSET', rec, 'owner', ARGV[1], 'gone', '1', 'dirty', event)
redis.call('ZREM', KEYS[13], room_id)
set_state(KEYS[7], 'DELETING', now)
redis.call('SREM', KEYS[9], room_id)
redis.call('ZREM', KEYS[10], room_id)
redis.call('HINCRBY', KEYS[8], 'len', -1)
redis.call('HSET', KEYS[8], 'dirty', event)
pin(KEYS[8], KEYS[9], KEYS[10])
answer[2] = redis.call('XLEN', KEYS[5])
return answer
