-- purpose: Put a room that was read from MySQL into Redis: record, window, card; whole or not at all. Replies that are open
--   go on: their turns and what is noted of them stay, unless MySQL knows better. Replies that are lost end in the same
--   step, so that no process dies between the two, and a database that takes no writes now can be loaded from.
-- KEYS: 1 room record; 2 messages; 3 room card; 4 epoch; 5 room load token; 6 room state; 7 turns; 8 leases; 9 prefix of message states; 10 news; 11 prefix of the room's reply streams; 12 persistence lane
-- ARGV: 1 token; 2 epoch at the load's start; 3 TTL of the window in ms; 4 room_id; 5 last activity in ms; 6 message count; 7 title as JSON; 8 persona as JSON; 9 created at, ISO; 10 TTL of the card in ms; 11 last event of the record at the load's start or ''; 12 lease in ms; 13 ready lease in ms; 14 number of turns that stay open; 15 number of record fields and values; 16 stream TTL in ms; 17 beginning of an event's payload; 18 number of values of lost replies; 19.. turns in order, then record fields and values, then id, seq, time and final tail of each lost reply, then list entries
-- returns: {0} filled | {7} a write or another load came first | {2} the room is deleted
if redis.call('GET', KEYS[5]) ~= ARGV[1] or redis.call('GET', KEYS[4]) ~= ARGV[2] then return { LOST } end
local v = redis.call('HMGET', KEYS[1], 'epoch', 'dirty', 'len', 'turn', 'turn_token', 'turn_phase', 'turn_at', 'turn_facts',
  'format')
refuse_newer(v[9])
-- A reply that has ended since, or a write from outside, is not in the rows that were read.
if (v[2] or '') ~= ARGV[11] then return { LOST } end
if v[1] == ARGV[2] and tonumber(v[3]) == redis.call('LLEN', KEYS[2]) then return { LOST } end
if ARGV[11] == '' and v[1] and not v[4] then return { LOST } end
if is_gone(get_state(KEYS[6])) then return { NOT_FOUND } end
local room_id, now = ARGV[4], now_ms()
local first_field = 19 + tonumber(ARGV[14])
local last_field = first_field - 1 + tonumber(ARGV[15])
local last_end = last_field + tonumber(ARGV[18])
local running, waiting, watched, kept = nil, {}, {}, {}
for i = 19, first_field - 1 do
  local token, reply_id = string.match(ARGV[i], '^([^|]+)|([^|]+)')
  kept[reply_id] = true
  -- By its token: the number in a turn changes with that of its question.
  if token == v[5] then running = ARGV[i] else waiting[#waiting + 1] = ARGV[i] end
  watched[#watched + 1] = 'w:' .. reply_id
  watched[#watched + 1] = redis.call('HGET', KEYS[1], 'w:' .. reply_id) or ''
  if not get_state(KEYS[9] .. reply_id) then set_state(KEYS[9] .. reply_id, 'COMPOSING', now, nil, room_id) end
end
-- A turn that MySQL knows to be over: an older Redis brought it back. What belongs to it may expire.
local open = redis.call('LRANGE', KEYS[7], 0, -1)
open[#open + 1] = v[4] or nil
for _, turn in ipairs(open) do
  local reply_id = string.match(turn, '^[^|]+|([^|]+)')
  if reply_id and not kept[reply_id] then
    if get_state(KEYS[9] .. reply_id) == 'COMPOSING' then redis.call('DEL', KEYS[9] .. reply_id) end
    redis.call('PEXPIRE', KEYS[11] .. reply_id, ARGV[16])
  end
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[5], KEYS[7])
for i = first_field, last_field, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'format', FORMAT, 'epoch', ARGV[2], 'title', ARGV[7], 'persona', ARGV[8], 'created', ARGV[9],
  'last_ms', ARGV[5], 'count', ARGV[6], 'len', int(#ARGV - last_end))
for i = last_end + 1, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
redis.call('SET', KEYS[3], card(room_id, ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[5]), tonumber(ARGV[6])))
for i = 1, #watched, 2 do
  if watched[i + 1] ~= '' then redis.call('HSET', KEYS[1], watched[i], watched[i + 1]) end
end
for _, turn in ipairs(waiting) do redis.call('RPUSH', KEYS[7], turn) end
if running then
  local is_doubtful = v[6] == 'ready' and v[1] ~= ARGV[2]
  redis.call('HSET', KEYS[1], 'turn', running, 'turn_token', v[5], 'turn_phase', is_doubtful and UNSURE_PHASE or v[6])
  if v[7] then redis.call('HSET', KEYS[1], 'turn_at', v[7]) end
  if v[8] then redis.call('HSET', KEYS[1], 'turn_facts', v[8]) end
  on_leases('ZADD', KEYS[8], v[6] == 'ready' and 'CH' or 'NX', int(now + tonumber(ARGV[12])), room_id)
elseif next_turn(KEYS[1], KEYS[7], KEYS[8], room_id, now + tonumber(ARGV[13])) ~= '' then
  tell(KEYS[10], 'ready', string.match(waiting[1], '^[^|]+|([^|]+)'))
end
for i = last_field + 1, last_end, 4 do
  local reply_id = ARGV[i]
  local event = redis.call('XADD', KEYS[12], '*', 'id', reply_id, 'type', 'CHAT_MESSAGE_SAVE',
    'payload', payload_of(ARGV[17], reply_id, ARGV[i + 3], ''), 'priority', '2', 'key', room_id, 'at', int(now),
    'seq', ARGV[i + 1], 'time', ARGV[i + 2])
  redis.call('HSET', KEYS[1], 'dirty', event)
  set_state(KEYS[9] .. reply_id, 'PENDING', now, nil, room_id)
end
if first_field == 19 and last_end == last_field then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  redis.call('PEXPIRE', KEYS[3], ARGV[10])
end
return { OK }
