-- purpose: Put a room that was read from MySQL into Redis: record, window, JSON; whole or not at
--   all. Replies that are open go on: their slots and what is noted of them stay, unless MySQL
--   knows better. Replies that are lost end in the same step, so that no process dies between the
--   two, and a database that takes no writes now can be loaded from.
-- KEYS: room_record; messages; room_json; generation; room_load; room_state; waiters; leases;
--   message_states prefix of message states; signals;
--   reply_streams prefix of the room's reply streams; event_stream
-- ARGV: token; begun_in generation at the load's start; window_ttl_ms int; room_id; last_ms;
--   count; title as JSON; persona as JSON; created ISO; json_ttl_ms int;
--   last_event of the record at the load's start, or ''; lease_ms int; ready_lease_ms int;
--   open_count int; field_count int; stream_ttl_ms int; payload_start of an event;
--   lost_count int;
--   values... open_count slots in order, then field_count record fields and values, then
--     lost_count values: id, seq, time and final body of each lost reply, then the window's
--     messages
-- returns: {0} loaded | {7} a write or another load came first | {2} the room is deleted
if redis.call('GET', room_load) ~= token or redis.call('GET', generation) ~= begun_in then
  return { SUPERSEDED }
end
local old = read_fields(room_record, {
  'epoch', 'dirty', 'len', 'turn', 'turn_token', 'turn_phase', 'turn_at', 'turn_facts', 'format',
})
refuse_newer(old.format)
-- A reply that has ended since, or a write from outside, is not in the rows that were read.
if (old.dirty or '') ~= last_event then return { SUPERSEDED } end
if old.epoch == begun_in and tonumber(old.len) == redis.call('LLEN', messages) then
  return { SUPERSEDED }
end
if last_event == '' and old.epoch and not old.turn then return { SUPERSEDED } end
if is_gone(get_state(room_state)) then return { NOT_FOUND } end

local now = now_ms()
local last_field = open_count + field_count
local last_lost = last_field + lost_count
local window_length = #values - last_lost
local running, waiting, watched, kept = nil, {}, {}, {}
for i = 1, open_count do
  local slot_token, reply_id = string.match(values[i], '^([^|]+)|([^|]+)')
  kept[reply_id] = true
  -- By its token: the number in a slot changes with that of its question.
  if slot_token == old.turn_token then
    running = values[i]
  else
    waiting[#waiting + 1] = values[i]
  end
  local watched_by = 'w:' .. reply_id
  watched[watched_by] = redis.call('HGET', room_record, watched_by) or nil
  local state = message_states .. reply_id
  if not get_state(state) then set_state(state, 'COMPOSING', now, nil, room_id) end
end
-- A slot that MySQL knows to be over: an older Redis brought it back. What belongs to it may
-- expire.
local open = redis.call('LRANGE', waiters, 0, -1)
open[#open + 1] = old.turn
for _, slot in ipairs(open) do
  local reply_id = reply_of(slot)
  if reply_id and not kept[reply_id] then
    local state = message_states .. reply_id
    if get_state(state) == 'COMPOSING' then redis.call('DEL', state) end
    redis.call('PEXPIRE', reply_streams .. reply_id, stream_ttl_ms)
  end
end

redis.call('DEL', room_record, messages, room_load, waiters)
for i = open_count + 1, last_field, 2 do
  redis.call('HSET', room_record, values[i], values[i + 1])
end
redis.call('HSET', room_record, 'format', FORMAT, 'epoch', begun_in, 'title', title,
  'persona', persona, 'created', created, 'last_ms', last_ms, 'count', count,
  'len', int(window_length))
for i = last_lost + 1, #values do redis.call('RPUSH', messages, values[i]) end
redis.call('SET', room_json,
  format_room(room_id, title, persona, created, iso(tonumber(last_ms)), tonumber(count)))
for watched_by, what in pairs(watched) do redis.call('HSET', room_record, watched_by, what) end
for _, slot in ipairs(waiting) do redis.call('RPUSH', waiters, slot) end
if running then
  -- Of another Redis run: it may have forgotten a claim.
  local is_unsure = old.turn_phase == 'ready' and old.epoch ~= begun_in
  redis.call('HSET', room_record, 'turn', running, 'turn_token', old.turn_token,
    'turn_phase', is_unsure and UNSURE_PHASE or old.turn_phase)
  if old.turn_at then redis.call('HSET', room_record, 'turn_at', old.turn_at) end
  if old.turn_facts then redis.call('HSET', room_record, 'turn_facts', old.turn_facts) end
  -- A claimed slot keeps the lease that its process renews; one that is ready gets a whole one.
  local when = old.turn_phase == 'ready' and 'CH' or 'NX'
  on_leases('ZADD', leases, when, int(now + lease_ms), room_id)
else
  local ready = grant_next_slot(room_record, waiters, leases, room_id, now + ready_lease_ms)
  if ready then notify(signals, 'ready', reply_of(ready)) end
end

for i = last_field + 1, last_lost, 4 do
  local reply_id, seq, at, message_body = unpack(values, i, i + 3)
  local event = append_event(event_stream, {
    id = reply_id, type = 'CHAT_MESSAGE_SAVE', key = room_id, at = int(now), seq = seq, time = at,
    payload = message_payload(payload_start, reply_id, message_body, ''),
  })
  redis.call('HSET', room_record, 'dirty', event)
  set_state(message_states .. reply_id, 'PENDING', now, nil, room_id)
end
if open_count == 0 and lost_count == 0 then
  redis.call('PEXPIRE', room_record, window_ttl_ms)
  redis.call('PEXPIRE', messages, window_ttl_ms)
  redis.call('PEXPIRE', room_json, json_ttl_ms)
end
return { OK }
