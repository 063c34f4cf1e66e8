-- purpose: Delete a message: a tombstone in its place, its state, the delete event; a reply that runs or waits is ended.
--   For a state call or a host's event (ARGV 7) the room need not be loaded if MySQL knows the message: then its load
--   waits for the event. Called again with the same note (KEYS 12) it answers what it answered first.
-- KEYS: 1 room record; 2 messages; 3 room card; 4 epoch; 5 persistence lane; 6 room load token; 7 message state; 8 leases; 9 turns; 10 reply stream of this message; 11 news; 12 note that this call was done, with its states (not by a handler)
-- ARGV: 1 account_db_key; 2 room_id; 3 message_id; 4 seq found in MySQL or ''; 5 event payload; 6 ready lease in ms; 7 states that it may be in (csv, a missing one is SENT), '' for a loaded room and any; 8 new state, '' for the one that its present state leads to; 9 TTL of the note in ms
-- returns: {0, backlog, token that is ready or '', state before, new state} | {11} deleted before | {1, 'room'} cold | {2} room not found | {5} not in the window, ask MySQL | {7} no such message | {9, state now} not from this state
local rec, messages, room_id, by_state = KEYS[1], KEYS[2], ARGV[2], ARGV[7] ~= ''
if KEYS[12] then
  local from, to = string.match(get_text(KEYS[12]) or '', '^(%u+) (%u+)$')
  if from then return { OK, 0, '', from, to } end
end
local refused = check_room(rec, messages, KEYS[4], ARGV[1])
local is_cold = refused == COLD
if refused and not (is_cold and by_state and ARGV[4] ~= '') then return { refused, 'room' } end
local v = redis.call('HMGET', rec, 'floor', 'count', 'title', 'persona', 'created', 'last_ms', 'turn', 'next_seq')
local floor = tonumber(v[1])
local offset, item = find_entry(messages, ARGV[3])
local state = get_state(KEYS[7])
if offset and is_tombstone(item) then return { REPEAT } end
if not offset then
  if floor == 1 and not is_cold then return { LOST } end
  if ARGV[4] == '' then return { UNSURE } end
  -- A state that a host moved by itself has a TTL; one without belongs to a delete of ours that is not in MySQL yet.
  if is_gone(state) and (not by_state or redis.call('PTTL', KEYS[7]) == -1) then return { REPEAT } end
end
if by_state and not string.find(',' .. ARGV[7] .. ',', ',' .. (state or 'SENT') .. ',', 1, true) then
  return { REFUSED, state or 'SENT' }
end
local seq = ARGV[4] ~= '' and tonumber(ARGV[4]) or floor + offset
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
local to = ARGV[8]
if to == '' then to = (state == 'COMPOSING' or state == 'PENDING') and 'DELETED' or 'DELETING' end
set_state(KEYS[7], to, now)
if KEYS[12] then redis.call('SET', KEYS[12], (state or 'SENT') .. ' ' .. to, 'PX', ARGV[9]) end
if offset then redis.call('LSET', messages, offset, 'x' .. ARGV[3]) end
if is_cold then
  if not v[8] then redis.call('HSET', rec, 'epoch', NO_GENERATION) end
  if offset and v[2] then redis.call('HINCRBY', rec, 'count', -1) end
  redis.call('HSET', rec, 'dirty', event)
  redis.call('PERSIST', rec)
  -- Without its card the list of rooms loads the room again: without this message.
  redis.call('DEL', KEYS[3])
else
  if not offset then redis.call('HSET', rec, 'older', '?') end
  redis.call('HSET', rec, 'count', int(v[2] - 1), 'dirty', event)
  redis.call('SET', KEYS[3], card(room_id, v[3], v[4], v[5], tonumber(v[6]), v[2] - 1))
  pin(rec, messages)
end
return { OK, redis.call('XLEN', KEYS[5]), ready, state or 'SENT', to }
