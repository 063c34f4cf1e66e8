-- purpose: Delete a message: a tombstone in its place, its state, the delete event; a reply that runs or waits is ended.
-- KEYS: 1 room record; 2 messages; 3 room card; 4 epoch; 5 persistence lane; 6 room load token; 7 message state; 8 leases; 9 turns; 10 reply stream of this message; 11 news
-- ARGV: 1 account_db_key; 2 room_id; 3 message_id; 4 seq found in MySQL or ''; 5 event payload; 6 ready lease in ms
-- returns: {0, backlog, token that is ready or ''} | {11} deleted before | {1, 'room'} cold | {2} room not found | {5} not in the window, ask MySQL | {7} no such message
local rec, messages, room_id = KEYS[1], KEYS[2], ARGV[2]
local refused = check_room(rec, messages, KEYS[4], ARGV[1])
if refused then return { refused, 'room' } end
local v = redis.call('HMGET', rec, 'floor', 'count', 'title', 'persona', 'created', 'last_ms', 'turn', 'turn_token')
local floor = tonumber(v[1])
local offset, item = find_entry(messages, ARGV[3])
local state = get_state(KEYS[7])
if offset and is_tombstone(item) then return { REPEAT } end
if not offset then
  if floor == 1 then return { LOST } end
  if ARGV[4] == '' then return { UNSURE } end
  if state == 'DELETING' or state == 'DELETED' then return { REPEAT } end
end
local seq = offset and floor + offset or tonumber(ARGV[4])
local now = now_ms()
local ready = ''
if v[7] and string.match(v[7], '^[^|]+|([^|]+)') == ARGV[3] then
  ready = next_turn(rec, KEYS[9], KEYS[8], room_id, now + tonumber(ARGV[6]))
else
  for _, waiting in ipairs(redis.call('LRANGE', KEYS[9], 0, -1)) do
    if string.match(waiting, '^[^|]+|([^|]+)') == ARGV[3] then redis.call('LREM', KEYS[9], 1, waiting) end
  end
end
redis.call('DEL', KEYS[10], KEYS[6])
if offset and is_running(item) then
  redis.call('HDEL', rec, 'w:' .. ARGV[3])
  tell(KEYS[11], 'ended', ARGV[3])
end
if ready ~= '' then tell(KEYS[11], 'ready', string.match(redis.call('HGET', rec, 'turn'), '^[^|]+|([^|]+)')) end
local event = redis.call('XADD', KEYS[5], '*', 'id', ARGV[3], 'type', 'CHAT_MESSAGE_DELETE', 'payload', ARGV[5],
  'priority', '2', 'key', room_id, 'at', int(now), 'seq', int(seq))
if offset then
  redis.call('LSET', messages, offset, 'x' .. ARGV[3])
else
  redis.call('HSET', rec, 'older', '?')
end
set_state(KEYS[7], (state == 'COMPOSING' or state == 'PENDING') and 'DELETED' or 'DELETING', now)
redis.call('HSET', rec, 'count', int(v[2] - 1), 'dirty', event)
redis.call('SET', KEYS[3], card(room_id, v[3], v[4], v[5], tonumber(v[6]), v[2] - 1))
pin(rec, messages)
return { OK, redis.call('XLEN', KEYS[5]), ready }
