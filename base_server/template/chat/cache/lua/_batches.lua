-- The state of a message that MySQL has now; `text` is what stands at the key.
local function acknowledge_saved(key, text, now, state_ttl_ms)
  local state = state_of(text)
  if state == 'PENDING' then text = with_state(text, 'PROCESSING', now) end
  if state == 'PENDING' or state == 'PROCESSING' then
    redis.call('SET', key, with_state(text, 'SENT', now, ''), 'PX', state_ttl_ms)
  elseif state == 'SENT' and room_of(text) then
    -- A host had set it already: what is left is to forget the room.
    redis.call('SET', key, without_room(text), 'PX', state_ttl_ms)
  end
end

-- The state of a message or room whose delete MySQL has now.
local function acknowledge_deleted(key, now, state_ttl_ms)
  if get_state(key) ~= 'DELETED' then
    set_state(key, 'DELETED', now, state_ttl_ms)
  else
    redis.call('PEXPIRE', key, state_ttl_ms)
  end
end

-- `change`: what of the batch MySQL has of the room itself, 'created', 'deleted' or ''.
local function acknowledge_room_state(key, change, now, state_ttl_ms)
  if change == 'deleted' then return acknowledge_deleted(key, now, state_ttl_ms) end
  if change ~= 'created' then return end
  local state = get_state(key)
  if state == 'PENDING' then set_state(key, 'PROCESSING', now) end
  if state == 'PENDING' or state == 'PROCESSING' then
    set_state(key, 'ACTIVE', now, state_ttl_ms)
  end
end

-- A record without anything in it stops a load that read MySQL before this batch was there; the
-- next load removes it. A whole one is read again.
local function forget(record, ttl_ms)
  if redis.call('HEXISTS', record, 'len') == 1 then
    redis.call('HSET', record, 'epoch', STALE_GENERATION)
  elseif redis.call('EXISTS', record) == 0 then
    redis.call('HSET', record, 'epoch', NO_GENERATION, 'dirty', NO_EVENT)
    redis.call('PEXPIRE', record, ttl_ms)
  end
end

-- Highest seq up to which all is saved, and what is saved beyond it (behind a running reply).
local function advance_saved(saved_seq, saved_ahead, seqs)
  local set, rest = {}, {}
  for seq in string.gmatch(saved_ahead .. ',' .. seqs, '%d+') do
    if tonumber(seq) > saved_seq then set[tonumber(seq)] = true end
  end
  while set[saved_seq + 1] do
    saved_seq = saved_seq + 1
    set[saved_seq] = nil
  end
  for seq in pairs(set) do rest[#rest + 1] = int(seq) end
  return saved_seq, table.concat(rest, ',')
end

-- Take the oldest messages out of the window, none above `last_seq`, until `window` are left, and
-- their idempotency claims with them. `room`: fields of its record. `floor_at` stays true: every
-- message accepted later than that is in the window (a tombstone keeps no time of its own: the
-- latest message's time then).
local function trim_window(room_record, room, messages, window, last_seq)
  local length, first_seq = tonumber(room.len), tonumber(room.floor)
  if length <= window or first_seq > last_seq then return end
  local window_since, has_older, latest = room.floor_at, room.older, iso(tonumber(room.last_ms))
  while length > window and first_seq <= last_seq do
    local count = math.min(length - window, last_seq - first_seq + 1, 500)
    local items = redis.call('LPOP', messages, count)
    local of_seqs, dropped = {}, {}
    for i, item in ipairs(items) do
      local at = latest
      if not is_tombstone(item) then has_older, at = '1', time_of(item) end
      if at > window_since then window_since = at end
      of_seqs[i] = 's:' .. int(first_seq + i - 1)
    end
    for i, client_id in ipairs(redis.call('HMGET', room_record, unpack(of_seqs))) do
      if client_id then
        dropped[#dropped + 1] = of_seqs[i]
        dropped[#dropped + 1] = 'c:' .. client_id
      end
    end
    if #dropped > 0 then redis.call('HDEL', room_record, unpack(dropped)) end
    length, first_seq = length - #items, first_seq + #items
  end
  redis.call('HSET', room_record, 'floor', int(first_seq), 'len', int(length),
    'floor_at', window_since, 'older', has_older)
end
