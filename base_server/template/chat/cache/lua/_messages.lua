-- The JSON of ChatRoom. Title and persona are JSON made in Python and never decoded here.
local function format_room(room_id, title, persona, created_at, last_message_at, count)
  return '{"room_id":"' .. room_id .. '","title":' .. title .. ',"ai_persona":' .. persona ..
    ',"created_at":"' .. created_at .. '","last_message_at":"' .. last_message_at ..
    '","message_count":' .. int(count) .. '}'
end

-- A message as the window stores it: the prefix is made here, the body (sender, content,
-- metadata) in Python.
local function format_message(message_id, room_id, seq, at, message_body)
  return '{"message_id":"' .. message_id .. '","room_id":"' .. room_id .. '","seq":' .. int(seq) ..
    ',"timestamp":"' .. at .. '",' .. message_body
end

-- A deleted message leaves 'x' and its id in its place.
local function is_tombstone(item)
  return string.byte(item) == 120
end

-- Of a message that is damaged: ''.
local function id_of(item)
  if is_tombstone(item) then return string.sub(item, 2) end
  return string.match(item, '^{"message_id":"([^"]+)"') or ''
end

local function time_of(item)
  return string.match(item, '^[^}]-"timestamp":"([^"]+)"') or ''
end

-- A reply that nobody ended yet. (Text cannot look like it: its quotes are escaped.)
local function is_running(item)
  return string.find(item, '"is_streaming":true,', 1, true) ~= nil
end

-- Take out what a handler of somebody else's pushed into the list by itself; its event brings it
-- back with a seq.
local function drop_foreign(messages)
  local dropped, ours = 0, '^{"message_id":"[^"]+","room_id":"[^"]+","seq":%d+,'
  for _, item in ipairs(redis.call('LRANGE', messages, 0, -1)) do
    if not is_tombstone(item) and not string.match(item, ours) then
      dropped = dropped + redis.call('LREM', messages, 0, item)
    end
  end
  return dropped
end

-- Index of a message in the window, and the message; nil when it is not there. Newest first, for
-- that is where it mostly is.
local function find_message(messages, message_id)
  local last = redis.call('LLEN', messages) - 1
  while last >= 0 do
    local first = math.max(0, last - 19)
    local items = redis.call('LRANGE', messages, first, last)
    for i = #items, 1, -1 do
      if id_of(items[i]) == message_id then return first + i - 1, items[i] end
    end
    last = first - 1
  end
  return nil
end

-- A message at the seq that its process knows, or wherever it is: a load may have given it another
-- number (decision 0033).
local function find_message_near(messages, first_seq, seq, message_id)
  local index = first_seq and tonumber(seq) - tonumber(first_seq) or -1
  local item = index >= 0 and redis.call('LINDEX', messages, index)
  if item and id_of(item) == message_id then return item end
  local _, found = find_message(messages, message_id)
  return found
end
