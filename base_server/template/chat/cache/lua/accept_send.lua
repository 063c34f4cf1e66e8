-- purpose: Accept a question and open its reply: both seq numbers, list entries, states, the question's persistence
--   event, the idempotency claim, and the room's turn or a place in its bounded queue; with on_busy 'interrupt' the
--   running reply is ended first, with what it has said. A room that nobody named gets its title. All of it or nothing.
-- KEYS: 1 room record; 2 messages; 3 room card; 4 epoch; 5 persistence lane; 6 room load token; 7 account record; 8 account's rooms; 9 account's order; 10 account load token; 11 question state; 12 reply state; 13 turns; 14 leases; 15 rooms with dead letters; 16 account's open replies; 17 news; 18 prefix of message states; 19 prefix of the room's reply streams
-- ARGV: 1 account_db_key; 2 room_id; 3 question id; 4 reply id; 5 turn token; 6 question tail up to its metadata; 7 reply tail up to its metadata; 8 beginning of an event's payload; 9 client_message_id or ''; 10 body hash; 11 the window's floor when MySQL did not know the client id, '' when it was not asked; 12 ISO time of a UUIDv7 client id or ''; 13 on_busy; 14 persona as JSON, '' for the room's own; 15 title for a room that nobody named, as JSON, or ''; 16 waiting turns limit; 17 backlog limit; 18 reply deadline in ms; 19 dead letters limit; 20 sends a minute; 21 sends at once; 22 open replies limit; 23 stream TTL in ms; 24 ready lease in ms; 25 history length; 26 reply lease in ms
-- returns: {0, seq, question, reply, granted 0|1, backlog, turn, history…} | {11, question, reply, turn or ''} sent before (a turn: nobody has asked yet) | {1, 'room'|'account'} cold | {2} not found | {3, running reply id, on_busy} busy | {4} same client id, other body | {5, floor} ask MySQL | {6, 'backlog'|'dead'} full | {9} the message sent before was deleted | {6, 'sends'|'replies', ms to wait} the account's limits
local rec, messages, room_id = KEYS[1], KEYS[2], ARGV[2]
local refused = check_room(rec, messages, KEYS[4], ARGV[1])
if refused then return { refused, 'room' } end
if check_account(KEYS[7], KEYS[8], KEYS[9], KEYS[4], ARGV[1]) then return { COLD, 'account' } end
local v = redis.call('HMGET', rec, 'next_seq', 'floor', 'floor_at', 'len', 'count', 'last_ms', 'title', 'persona',
  'created', 'turn_token', 'turn', 'turn_phase', 'version')
local seq, floor, client_id = tonumber(v[1]), tonumber(v[2]), ARGV[9]
-- Leases are by the clock alone. Without one a slot whose process has died would never be free.
local clock = now_ms()
if v[10] then on_leases('ZADD', KEYS[14], 'NX', int(clock + tonumber(ARGV[26])), room_id) end

-- A reply stands directly after its question, unless another message has that number: a Redis that lost the reply may
-- have given it away.
local function sent_before(offset)
  local pair = redis.call('LRANGE', messages, offset, offset + 1)
  if is_tombstone(pair[1]) or not pair[2] or is_tombstone(pair[2]) then return { REFUSED } end
  local parent = '"parent_message_id":"' .. entry_id(pair[1]) .. '"'
  if not string.find(pair[2], parent, 1, true) then
    pair[2] = nil
    for _, item in ipairs(redis.call('LRANGE', messages, offset + 2, -1)) do
      if string.find(item, parent, 1, true) then
        pair[2] = item
        break
      end
    end
    if not pair[2] then return { REFUSED } end
  end
  -- Stored by a process that does not know it, or has died since: who repeats the send takes the slot.
  local is_free = v[12] == 'ready' and string.match(v[11], '^[^|]+|([^|]+)') == entry_id(pair[2])
  return { REPEAT, pair[1], pair[2], is_free and v[11] or '' }
end
-- This very call was made before and its answer was lost: who asks again still has to run the turn.
if redis.call('EXISTS', KEYS[12]) == 1 then
  local offset = find_entry(messages, ARGV[3])
  local sent = offset and sent_before(offset) or { REFUSED }
  if sent[1] ~= REPEAT then return sent end
  local answer = { OK, floor + offset, sent[2], sent[3], 0, redis.call('XLEN', KEYS[5]), v[11] }
  if v[10] == ARGV[5] and v[12] == 'ready' then
    answer[5] = 1
    return answer
  end
  for _, turn in ipairs(redis.call('LRANGE', KEYS[13], 0, -1)) do
    if string.match(turn, '^([^|]+)|') == ARGV[5] then
      answer[7] = turn
      return answer
    end
  end
  return sent
end
-- Messages are later than those before them even if the clock went back.
local now = math.max(after_latest(KEYS[9], clock), tonumber(v[6]) + 1)
if client_id ~= '' then
  local claim = redis.call('HGET', rec, 'c:' .. client_id)
  if claim then
    local claimed, hash = string.match(claim, '^(%d+)|(.*)$')
    if hash ~= ARGV[10] then return { MISMATCH } end
    return sent_before(tonumber(claimed) - floor)
  end
  -- What was below the floor was in MySQL then; what is above it has its claim here.
  local known_below = tonumber(ARGV[11]) or 1
  if floor > known_below and not (ARGV[12] > v[3] and ARGV[12] <= iso(now)) then return { UNSURE, floor } end
end
if redis.call('XLEN', KEYS[5]) >= tonumber(ARGV[17]) then return { FULL, 'backlog' } end
if tonumber(redis.call('HGET', KEYS[15], room_id) or 0) >= tonumber(ARGV[19]) then return { FULL, 'dead' } end
-- The account's limits: a bucket of sends that fills with time, and the replies that are open now.
local bucket = redis.call('HMGET', KEYS[7], 'sends', 'sends_at')
local rate, burst = tonumber(ARGV[20]) / 60000, tonumber(ARGV[21])
local passed = clock - tonumber(bucket[2] or clock) -- less than 0: the clock was set back, and nobody knows how much passed
local sends = passed < 0 and burst or math.min(burst, tonumber(bucket[1] or burst) + passed * rate)
if sends < 1 then return { FULL, 'sends', math.ceil((1 - sends) / rate) } end
local running = v[10] and string.match(v[11], '^[^|]+|([^|]+)')
local leaving = running and ARGV[13] == 'interrupt' and 1 or 0
local open = redis.pcall('ZCOUNT', KEYS[16], int(clock), '+inf')
if type(open) == 'table' then
  redis.call('DEL', KEYS[16])
elseif open - leaving >= tonumber(ARGV[22]) then
  return { FULL, 'replies', 1000 }
end
if running then
  local waiting = redis.call('LLEN', KEYS[13]) - leaving
  if ARGV[13] == 'reject' or waiting >= tonumber(ARGV[16]) then return { BUSY, running, ARGV[13] } end
end

if leaving == 1 then
  local k = { rec = rec, messages = messages, lane = KEYS[5], news = KEYS[17], leases = KEYS[14], turns = KEYS[13],
    open = KEYS[16], state = KEYS[18] .. running, stream = KEYS[19] .. running }
  put_early_end(k, room_id, v[11], 'stopped', ARGV[8], ARGV[24], ARGV[23], clock)
  running = redis.call('HGET', rec, 'turn')
end
local at, title = iso(now), v[7]
if v[13] == UNNAMED_VERSION and ARGV[15] ~= '' then
  title = ARGV[15]
  redis.call('XADD', KEYS[5], '*', 'id', ARGV[5], 'type', 'CHAT_ROOM_UPDATE', 'payload',
    ARGV[8] .. '"title":' .. title .. '}', 'priority', '2', 'key', room_id, 'at', int(now), 'version', '0')
  redis.call('HSET', rec, 'title', title, 'version', '0')
end
local persona = ARGV[14] ~= '' and ARGV[14] or v[8]
local metadata = '{"ai_persona":' .. persona .. '}}'
local sent_as = client_id == '' and '' or ',"client_message_id":"' .. client_id .. '","body_hash":"' .. ARGV[10] .. '"'
local event = redis.call('XADD', KEYS[5], '*', 'id', ARGV[3], 'type', 'CHAT_MESSAGE_SAVE',
  'payload', payload_of(ARGV[8], ARGV[3], ARGV[6] .. metadata, sent_as),
  'priority', '2', 'key', room_id, 'at', int(now), 'seq', int(seq), 'time', at,
  'persona', persona)
local question = entry(ARGV[3], room_id, seq, at, ARGV[6] .. metadata)
local reply = entry(ARGV[4], room_id, seq + 1, iso(now + 1), ARGV[7] .. metadata)
local length = redis.call('RPUSH', messages, question, reply)
redis.call('HSET', rec, 'next_seq', int(seq + 2), 'len', int(length), 'count', int(v[5] + 2), 'last_ms', int(now + 1),
  'dirty', event)
if client_id ~= '' then
  redis.call('HSET', rec, 'c:' .. client_id, int(seq) .. '|' .. ARGV[10], 's:' .. int(seq), client_id)
  -- A client whose clock runs ahead: from here on its id proves nothing by its time.
  if ARGV[12] > at and ARGV[12] > v[3] then redis.call('HSET', rec, 'floor_at', ARGV[12]) end
end
redis.call('SET', KEYS[3], card(room_id, title, v[8], v[9], now + 1, v[5] + 2))
set_state(KEYS[11], 'PENDING', now, nil, room_id)
set_state(KEYS[12], 'COMPOSING', now, nil, room_id)
redis.call('ZADD', KEYS[9], int(now + 1), room_id)
redis.call('HSET', KEYS[7], 'dirty', event, 'sends', string.format('%.3f', sends - 1), 'sends_at', int(clock))
-- A reply that nobody ended is over at its deadline.
redis.call('ZREMRANGEBYSCORE', KEYS[16], '-inf', int(clock))
redis.call('ZADD', KEYS[16], int(clock + tonumber(ARGV[18])), ARGV[4])
redis.call('PEXPIRE', KEYS[16], ARGV[18])
pin(rec, messages, KEYS[7], KEYS[8], KEYS[9])
redis.call('DEL', KEYS[6], KEYS[10])
local turn = table.concat({ ARGV[5], ARGV[4], int(seq + 1), ARGV[3], int(clock + tonumber(ARGV[18])), persona }, '|')
local answer = { OK, seq, question, reply, 0, redis.call('XLEN', KEYS[5]), turn }
if running then
  redis.call('RPUSH', KEYS[13], turn)
  return answer
end
redis.call('HSET', rec, 'turn_token', ARGV[5], 'turn', turn, 'turn_phase', 'ready')
on_leases('ZADD', KEYS[14], int(clock + tonumber(ARGV[24])), room_id)
answer[5] = 1
if length > 2 then
  for _, item in ipairs(redis.call('LRANGE', messages, math.max(0, length - 2 - tonumber(ARGV[25])), length - 3)) do
    answer[#answer + 1] = item
  end
end
return answer
