-- Of a record that came from another Redis run as 'ready': that run may have forgotten a claim,
-- and with it that the question was asked. The process that asked writes on, and so marks it;
-- anybody else claims it after its lease alone.
local UNSURE_PHASE = 'unsure'

-- Whether the process with this claim may write the reply: nobody has claimed it, or it has.
local function may_write(phase, claim_id)
  return phase == 'ready' or phase == UNSURE_PHASE or phase == 'calling ' .. claim_id
end

-- A command on the leases. Those of another type count as missing, and go. Their type is looked
-- at only after an error, for every send comes here three times.
local function on_leases(command, leases, ...)
  local answer = redis.pcall(command, leases, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if redis.call('TYPE', leases).ok ~= 'zset' then redis.call('DEL', leases) end
  return redis.call(command, leases, ...)
end

-- The parts of a slot as accept_send writes it: token, reply id, reply seq, question id, persona
-- as JSON.
local function parts_of(slot)
  return string.match(slot, '^([^|]+)|([^|]+)|(%d+)|([^|]+)|%d+|(.*)$')
end

local function reply_of(slot)
  return string.match(slot, '^[^|]+|([^|]+)')
end

-- The waiter whose token, or whose reply, this is.
local function find_waiter(waiters, part, value)
  for _, waiter in ipairs(redis.call('LRANGE', waiters, 0, -1)) do
    local token, reply_id = string.match(waiter, '^([^|]+)|([^|]+)|')
    if (part == 'token' and token or reply_id) == value then return waiter end
  end
  return nil
end

-- Give the slot to the first waiter, as 'ready', or free it. Returns the slot that is ready, or
-- nil.
local function grant_next_slot(room_record, waiters, leases, room_id, ready_until)
  local waiter = redis.call('LPOP', waiters)
  if not waiter then
    redis.call('HDEL', room_record, 'turn_token', 'turn', 'turn_phase', 'turn_at', 'turn_facts')
    on_leases('ZREM', leases, room_id)
    return nil
  end
  redis.call('HDEL', room_record, 'turn_at', 'turn_facts')
  redis.call('HSET', room_record, 'turn_token', string.match(waiter, '^([^|]+)|'),
    'turn', waiter, 'turn_phase', 'ready')
  on_leases('ZADD', leases, ready_until, room_id)
  return waiter
end

-- Notify every process about a reply: 'text' (there is more), 'ended', 'ready' (its slot was
-- granted), 'watched' (another process reads it). Only hints: a process that misses one looks
-- again a little later; a Redis user that may not publish (an ACL without channels) must not
-- break off a script that has written.
local function notify(signals, kind, reply_id)
  redis.pcall('PUBLISH', signals, kind .. ' ' .. reply_id)
end

-- Bytes of the reply that its stream holds; 0 without one. (Behind its end: one more.)
local function stream_length(reply_stream)
  local last = redis.call('XREVRANGE', reply_stream, '+', '-', 'COUNT', 1)[1]
  return last and tonumber(string.match(last[1], '^%d+')) or 0
end

-- Append text that begins at byte `from`; what of it is there already (a repeat) is not written
-- again.
local function append_text(reply_stream, from, text)
  local length = stream_length(reply_stream)
  if from + #text > length then
    redis.call('XADD', reply_stream, int(from + #text) .. '-0', 'text',
      string.sub(text, length - from + 1))
  end
end

-- Keys of another type count as missing, and go before anything is written. A room without its
-- list or its waiters is not whole: its load puts right what only they knew.
local function drop_other_types(keys)
  local dropped = 0
  local kinds = { messages = 'list', waiters = 'list', reply_stream = 'stream' }
  for name, kind in pairs(kinds) do
    local key = keys[name]
    local found = redis.call('TYPE', key).ok
    if found ~= 'none' and found ~= kind then
      redis.call('DEL', key)
      if kind == 'list' then dropped = dropped + 1 end
    end
  end
  if dropped > 0 and redis.call('HEXISTS', keys.room_record, 'len') == 1 then
    redis.call('HSET', keys.room_record, 'epoch', STALE_GENERATION)
  end
end

-- End a reply, running or queued: its text takes its place in the window, its event is appended,
-- the next waiter gets its slot. `keys`: room_record, messages, event_stream, signals, leases,
-- waiters, open_replies, reply_state, reply_stream. Returns the stored message, the token that is
-- ready now or '', and who watches.
local function put_end(
  keys, room_id, slot, message_body, payload_start, reason, ready_ms, stream_ttl_ms, now)
  local token, reply_id, seq = parts_of(slot)
  local watched_by = 'w:' .. reply_id
  local room = read_fields(keys.room_record, { 'turn_token', 'floor', 'epoch', watched_by })
  -- Another message may have this number: the window was loaded since, or lost the reply.
  local index = room.floor and tonumber(seq) - tonumber(room.floor) or -1
  local current = index >= 0 and redis.call('LINDEX', keys.messages, index) or ''
  if not current or id_of(current) ~= reply_id or is_tombstone(current) then current = '' end
  local at = current ~= '' and time_of(current) or iso(now)
  local event = append_event(keys.event_stream, {
    id = reply_id, type = 'CHAT_MESSAGE_SAVE', key = room_id, at = now, seq = seq, time = at,
    payload = message_payload(payload_start, reply_id, message_body, ''),
  })
  local final = format_message(reply_id, room_id, tonumber(seq), at, message_body)
  if current ~= '' then redis.call('LSET', keys.messages, index, final) end
  redis.call('HSET', keys.room_record, 'dirty', event)
  -- The record was lost: the note makes its load wait for this event.
  if not room.epoch then redis.call('HSET', keys.room_record, 'epoch', NO_GENERATION) end
  redis.call('HDEL', keys.room_record, watched_by)
  redis.pcall('ZREM', keys.open_replies, reply_id)
  -- Deleted meanwhile under an id of a host's own: that stays.
  if not is_gone(get_state(keys.reply_state)) then set_state(keys.reply_state, 'PENDING', now) end
  local ready
  if room.turn_token == token then
    ready = grant_next_slot(keys.room_record, keys.waiters, keys.leases, room_id, now + ready_ms)
  else
    redis.call('LREM', keys.waiters, 1, slot)
  end
  -- Readers that follow the stream see its end there; one that was never begun has no reader.
  local length = stream_length(keys.reply_stream)
  if length > 0 then
    redis.call('XADD', keys.reply_stream, int(length + 1) .. '-0', 'end', reason)
    redis.call('PEXPIRE', keys.reply_stream, stream_ttl_ms)
  end
  if ready then notify(keys.signals, 'ready', reply_of(ready)) end
  return final, ready and string.match(ready, '^[^|]+') or '', room[watched_by]
end

-- put_end for a caller that does not know the text: with what the stream holds, and the usage
-- that its process noted last.
local function put_early_end(
  keys, room_id, slot, reason, payload_start, ready_ms, stream_ttl_ms, now)
  drop_other_types(keys)
  local token, reply_id, _, question_id, persona = parts_of(slot)
  local room = read_fields(keys.room_record, { 'turn_token', 'turn_at', 'turn_facts' })
  local pieces = {}
  for i, item in ipairs(redis.call('XRANGE', keys.reply_stream, '-', '+')) do
    pieces[i] = item[2][2]
  end
  local content = cjson.encode(table.concat(pieces))
  local metadata = '{"ai_persona":' .. persona .. ',"finish_reason":"' .. reason .. '"'
  -- Usage and time are those of the reply that has the slot; a queued one has none.
  if room.turn_token == token then
    local usage, called_ms = room.turn_facts, tonumber(room.turn_at)
    if usage and usage ~= '' then metadata = metadata .. ',' .. usage end
    if called_ms then metadata = metadata .. ',"latency_ms":' .. int(now - called_ms) end
  end
  local message_body = '"sender_type":"AI","content":' .. content ..
    ',"parent_message_id":"' .. question_id .. '","metadata":' .. metadata .. '}}'
  local final, ready =
    put_end(keys, room_id, slot, message_body, payload_start, reason, ready_ms, stream_ttl_ms, now)
  notify(keys.signals, 'ended', reply_id)
  return final, ready
end
