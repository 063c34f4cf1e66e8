-- purpose: Delete a room for good: its record becomes a tombstone, its keys and its turns go, the delete event is queued.
--   For a state call or a host's event (ARGV 5) neither room nor account need be loaded: of what is not here nothing
--   has to go, and a load finds the tombstone or the state, which stay until MySQL has the delete.
--   Called again with the same note (KEYS 17) it answers what it answered first.
-- KEYS: 1 room record; 2 messages; 3 room card; 4 epoch; 5 persistence lane; 6 room load token; 7 room state; 8 account record; 9 account's rooms; 10 account's order; 11 account load token; 12 turns; 13 leases; 14 prefix of the room's reply streams; 15 prefix of message states; 16 news; 17 note that this call was done, with the state before (not by a handler)
-- ARGV: 1 account_db_key; 2 room_id; 3 event payload; 4 state TTL in ms; 5 states that it may be in (csv, a missing one is ACTIVE), '' for a loaded room of any; 6 new state; 7 TTL of the note in ms
-- returns: {0, backlog, state before} deleted | {11, state now or ''} deleted before | {1, 'room'|'account'} cold | {2} not found | {9, state now} not from this state
local rec, room_id, by_state = KEYS[1], ARGV[2], ARGV[5] ~= ''
local done = KEYS[17] and get_text(KEYS[17])
if done then return { OK, 0, done } end
local known = redis.call('HMGET', rec, 'owner', 'gone', 'format')
refuse_newer(known[3])
local state = get_state(KEYS[7])
if known[2] and known[1] == ARGV[1] then return { REPEAT, state or '' } end
local is_listed = not check_account(KEYS[8], KEYS[9], KEYS[10], KEYS[4], ARGV[1])
if by_state then
  if known[1] and known[1] ~= ARGV[1] then return { NOT_FOUND } end
  state = state or 'ACTIVE'
  if not string.find(',' .. ARGV[5] .. ',', ',' .. state .. ',', 1, true) then return { REFUSED, state } end
else
  local refused = check_room(rec, KEYS[2], KEYS[4], ARGV[1])
  if refused then return { refused, 'room' } end
  if not is_listed then return { COLD, 'account' } end
end
local now = now_ms()
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
on_leases('ZREM', KEYS[13], room_id)
set_state(KEYS[7], ARGV[6], now)
if KEYS[17] then redis.call('SET', KEYS[17], state, 'PX', ARGV[7]) end
if is_listed then
  redis.call('HINCRBY', KEYS[8], 'len', -redis.call('SREM', KEYS[9], room_id))
  redis.call('ZREM', KEYS[10], room_id)
  redis.call('HSET', KEYS[8], 'dirty', event)
  pin(KEYS[8], KEYS[9], KEYS[10])
end
return { OK, redis.call('XLEN', KEYS[5]), state or 'ACTIVE' }
