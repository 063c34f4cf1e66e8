-- What only some events have, in the order in which it is stored: one stream node keeps the names
-- of all its events once if they are in the same order.
local MORE_FIELDS = { 'seq', 'version', 'time', 'persona', 'was' }

-- Append an event of a room to its event stream; returns the event's id. The only way into the
-- stream for what a script makes itself. `event`: id (of its subject), type, payload, key (the
-- room), at (now), and perhaps some of MORE_FIELDS.
local function append_event(event_stream, event)
  local words = { 'id', event.id, 'type', event.type, 'payload', event.payload, 'priority', '2',
    'key', event.key, 'at', event.at }
  local count = #words
  for i = 1, #MORE_FIELDS do
    local name = MORE_FIELDS[i]
    if event[name] then
      words[count + 1], words[count + 2] = name, event[name]
      count = count + 2
    end
  end
  return redis.call('XADD', event_stream, '*', unpack(words))
end

-- Ids of events compare by time, then by counter.
local function id_at_most(a, b)
  local a_ms, a_count = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_count = string.match(b, '^(%d+)-(%d+)$')
  a_ms, b_ms = tonumber(a_ms), tonumber(b_ms)
  return a_ms < b_ms or (a_ms == b_ms and tonumber(a_count) <= tonumber(b_count))
end

-- The newest event of a stream; nil when it is empty.
local function last_event_of(event_stream)
  local last = redis.call('XREVRANGE', event_stream, '+', '-', 'COUNT', 1)[1]
  return last and last[1]
end

-- The payload of a message's event: `payload_start` says whose room it is, `message_body` is that
-- of the stored message; `more` members or ''.
local function message_payload(payload_start, message_id, message_body, more)
  return payload_start .. '"message_data":{"message_id":"' .. message_id .. '",' .. message_body ..
    more .. '}'
end

-- Call `visit` with id, flat fields and values, and the fields by name of each event of a stream,
-- in pages.
local function each_event(stream, visit)
  local from = '-'
  while from do
    local page = redis.call('XRANGE', stream, from, '+', 'COUNT', 200)
    from = nil
    for _, event in ipairs(page) do
      local fields = {}
      for i = 1, #event[2], 2 do fields[event[2][i]] = event[2][i + 1] end
      visit(event[1], event[2], fields)
      from = '(' .. event[1]
    end
  end
end

-- How many dead letters a room has: with none it is not blocked.
local function set_dead_letters(blocked_rooms, room_id, count)
  if count > 0 then
    redis.call('HSET', blocked_rooms, room_id, count)
  else
    redis.call('HDEL', blocked_rooms, room_id)
  end
end
