-- purpose: Accept a question and open its reply: both seq numbers, the stored messages, states,
--   the question's event, the idempotency claim, and the room's slot or a place among its
--   waiters; with on_busy 'interrupt' the running reply is ended first, with what it has said. A
--   room that nobody named gets its title. All of it or nothing.
-- KEYS: room_record; messages; room_json; generation; event_stream; room_load; account_record;
--   rooms; order; account_load; question_state; reply_state; waiters; leases; blocked_rooms;
--   open_replies; signals; message_states prefix of message states;
--   reply_streams prefix of the room's reply streams
-- ARGV: account_db_key; room_id; question_id; reply_id; slot_token;
--   question_body up to its metadata; reply_body up to its metadata;
--   payload_start of every event; client_message_id or ''; body_hash;
--   asked_first_seq int first_seq of the window when MySQL did not know the client id, '' = not
--     asked; client_id_time ISO time of a UUIDv7 client id, or ''; on_busy;
--   own_persona as JSON, '' for the room's own;
--   first_title for a room that nobody named, as JSON, or ''; waiters_limit int;
--   backlog_limit int; deadline_ms int from now; dead_letters_limit int; sends_per_minute int;
--   sends_at_once int; open_replies_limit int; stream_ttl_ms int; ready_lease_ms int;
--   history_length int; reply_lease_ms int
-- returns: {0, seq, question, reply, granted 0|1, backlog, slot, history…} | {11, question,
--   reply, slot or ''} sent before (a slot: nobody has asked yet) | {1, 'room'|'account'} not
--   loaded | {2} not found | {3, running reply id, on_busy} busy | {4} same client id, other body
--   | {5, first_seq} ask MySQL | {6, 'backlog'|'dead'} full | {6, 'sends'|'replies', ms to wait}
--   the account's limits | {9} what was sent before was deleted
local refused, room = check_room(room_record, messages, generation, account_db_key, {
  'next_seq', 'floor', 'floor_at', 'count', 'last_ms', 'title', 'persona', 'created', 'turn_token',
  'turn', 'turn_phase', 'version',
})
if refused then return { refused, 'room' } end
local is_cold, account = check_account(account_record, rooms, order, generation, account_db_key,
  { 'sends', 'sends_at' })
if is_cold then return { NOT_LOADED, 'account' } end
local seq, first_seq = tonumber(room.next_seq), tonumber(room.floor)
-- Leases are by the clock alone. Without one a slot whose process has died would never be free.
local clock = now_ms()
if room.turn_token then on_leases('ZADD', leases, 'NX', clock + reply_lease_ms, room_id) end

-- The answer for a question at this index that was sent before. A reply stands directly after its
-- question, unless another message has that number: a Redis that lost the reply may have given it
-- away.
local function sent_before(index)
  local pair = redis.call('LRANGE', messages, index, index + 1)
  local question, reply = pair[1], pair[2]
  if is_tombstone(question) or not reply or is_tombstone(reply) then return { REFUSED } end
  local parent = '"parent_message_id":"' .. id_of(question) .. '"'
  if not string.find(reply, parent, 1, true) then
    reply = nil
    for _, item in ipairs(redis.call('LRANGE', messages, index + 2, -1)) do
      if not reply and string.find(item, parent, 1, true) then reply = item end
    end
    if not reply then return { REFUSED } end
  end
  -- Stored by a process that does not know it, or has died since: the process that
  -- repeats the send takes the slot.
  local is_free = room.turn_phase == 'ready' and reply_of(room.turn) == id_of(reply)
  return { DUPLICATE, question, reply, is_free and room.turn or '' }
end

-- This very call was made before and its answer was lost: the caller still has to run the slot.
if redis.call('EXISTS', reply_state) == 1 then
  local index = find_message(messages, question_id)
  local sent = index and sent_before(index) or { REFUSED }
  if sent[1] ~= DUPLICATE then return sent end
  local granted, slot = 0, nil
  if room.turn_token == slot_token and room.turn_phase == 'ready' then
    granted, slot = 1, room.turn
  else
    slot = find_waiter(waiters, 'token', slot_token)
  end
  -- Neither ready nor waiting: another process took it since, and runs it.
  if not slot then return sent end
  local backlog = redis.call('XLEN', event_stream)
  return { OK, first_seq + index, sent[2], sent[3], granted, backlog, slot }
end

-- Messages are later than those before them even if the clock went back.
local now = math.max(after_latest(order, clock), tonumber(room.last_ms) + 1)
if client_message_id ~= '' then
  local claim = redis.call('HGET', room_record, 'c:' .. client_message_id)
  if claim then
    local claimed_seq, hash = string.match(claim, '^(%d+)|(.*)$')
    if hash ~= body_hash then return { MISMATCH } end
    return sent_before(tonumber(claimed_seq) - first_seq)
  end
  -- What was below the window was in MySQL then; what is in it has its claim here. A trim between
  -- the question to MySQL and this call moves first_seq, and MySQL is asked again.
  local is_new = first_seq <= (asked_first_seq or 1)
    or client_id_time > room.floor_at and client_id_time <= iso(now)
  if not is_new then return { NEEDS_DATABASE, first_seq } end
end

if redis.call('XLEN', event_stream) >= backlog_limit then return { FULL, 'backlog' } end
local dead_letters = tonumber(redis.call('HGET', blocked_rooms, room_id) or 0)
if dead_letters >= dead_letters_limit then return { FULL, 'dead' } end
-- The account's limits: a bucket of sends that fills with time, and the replies that are open
-- now. A clock that was set back says nothing of the time that passed: the bucket is full then.
local sends_per_ms = sends_per_minute / 60000
local sends, passed_ms = sends_at_once, clock - tonumber(account.sends_at or clock)
if passed_ms >= 0 and account.sends then
  sends = math.min(sends_at_once, tonumber(account.sends) + passed_ms * sends_per_ms)
end
if sends < 1 then return { FULL, 'sends', math.ceil((1 - sends) / sends_per_ms) } end
local running = room.turn_token and reply_of(room.turn)
-- An interrupted reply leaves its place to this one, so it counts for no limit.
local leaving = running and on_busy == 'interrupt' and 1 or 0
local open = redis.pcall('ZCOUNT', open_replies, clock, '+inf')
if type(open) == 'table' then
  redis.call('DEL', open_replies) -- of another type: counts as missing
elseif open - leaving >= open_replies_limit then
  return { FULL, 'replies', 1000 }
end
if running and (on_busy == 'reject' or redis.call('LLEN', waiters) - leaving >= waiters_limit) then
  return { BUSY, running, on_busy }
end

-- From here on everything is written: no return with a refusal below this line.
if leaving == 1 then
  put_early_end({
    room_record = room_record, messages = messages, event_stream = event_stream, signals = signals,
    leases = leases, waiters = waiters, open_replies = open_replies,
    reply_state = message_states .. running, reply_stream = reply_streams .. running,
  }, room_id, room.turn, 'stopped', payload_start, ready_lease_ms, stream_ttl_ms, clock)
  -- A reply that waited has the slot now, and this one waits behind it.
  running = redis.call('HGET', room_record, 'turn')
end
local at, reply_at, title = iso(now), iso(now + 1), room.title
if room.version == UNNAMED_VERSION and first_title ~= '' then
  title = first_title
  append_event(event_stream, {
    id = slot_token, type = 'CHAT_ROOM_UPDATE', key = room_id, at = now, version = '0',
    payload = payload_start .. '"title":' .. title .. '}',
  })
  redis.call('HSET', room_record, 'title', title, 'version', '0')
end

local persona = own_persona ~= '' and own_persona or room.persona
local metadata = '{"ai_persona":' .. persona .. '}}'
local sent_as = ''
if client_message_id ~= '' then
  sent_as = ',"client_message_id":"' .. client_message_id .. '","body_hash":"' .. body_hash .. '"'
end
-- The reply has no event before it ends: until then Redis alone has it, and nothing of it expires.
local event = append_event(event_stream, {
  id = question_id, type = 'CHAT_MESSAGE_SAVE', key = room_id, at = now,
  seq = seq, time = at, persona = persona,
  payload = message_payload(payload_start, question_id, question_body .. metadata, sent_as),
})
local question = format_message(question_id, room_id, seq, at, question_body .. metadata)
local reply = format_message(reply_id, room_id, seq + 1, reply_at, reply_body .. metadata)
local length = redis.call('RPUSH', messages, question, reply)
local message_count = room.count + 2
redis.call('HSET', room_record, 'next_seq', seq + 2, 'len', length, 'count', message_count,
  'last_ms', now + 1, 'dirty', event)
if client_message_id ~= '' then
  redis.call('HSET', room_record, 'c:' .. client_message_id, int(seq) .. '|' .. body_hash,
    's:' .. int(seq), client_message_id)
  -- A client whose clock runs ahead: from here on its id proves nothing by its time.
  if client_id_time > at and client_id_time > room.floor_at then
    redis.call('HSET', room_record, 'floor_at', client_id_time)
  end
end
redis.call('SET', room_json,
  format_room(room_id, title, room.persona, room.created, reply_at, message_count))
set_state(question_state, 'PENDING', now, nil, room_id)
set_state(reply_state, 'COMPOSING', now, nil, room_id)
redis.call('ZADD', order, now + 1, room_id)
redis.call('HSET', account_record, 'dirty', event, 'sends', string.format('%.3f', sends - 1),
  'sends_at', clock)

-- A reply that nobody ended is over at its deadline.
local deadline = clock + deadline_ms
redis.call('ZREMRANGEBYSCORE', open_replies, '-inf', clock)
redis.call('ZADD', open_replies, deadline, reply_id)
redis.call('PEXPIRE', open_replies, deadline_ms)
pin(room_record, messages, account_record, rooms, order)
-- A load under way has not seen this message.
redis.call('DEL', room_load, account_load)
local slot = table.concat(
  { slot_token, reply_id, int(seq + 1), question_id, int(deadline), persona }, '|')
local answer = { OK, seq, question, reply, 0, redis.call('XLEN', event_stream), slot }
if running then
  redis.call('RPUSH', waiters, slot)
  return answer
end
redis.call('HSET', room_record, 'turn_token', slot_token, 'turn', slot, 'turn_phase', 'ready')
on_leases('ZADD', leases, clock + ready_lease_ms, room_id)
answer[5] = 1
if length > 2 then
  local first = math.max(0, length - 2 - history_length)
  for _, item in ipairs(redis.call('LRANGE', messages, first, length - 3)) do
    answer[#answer + 1] = item
  end
end
return answer
