-- One letter of a state, in its log and on a page.
local STATE_CODE = {
  COMPOSING = 'C', CREATING = 'C', PENDING = 'P', PROCESSING = 'R',
  SENT = 'S', ACTIVE = 'A', DELETING = 'X', DELETED = 'D',
}
local LOG_LENGTH = 5

-- A state and its last transitions in one string:
-- 'SENT|P1764000000000,R1764000000003,S1764000000009'. While a message is not in MySQL its room
-- follows ('PENDING|P1764000000000|<room id>'): state calls get no room. Anything else counts as
-- absent.
local function state_of(text)
  local name = text and string.match(text, '^[A-Z]+')
  return name and STATE_CODE[name] and name or nil
end

-- The string at a key; one of another type counts as missing and goes.
local function get_text(key)
  local text = redis.pcall('GET', key)
  if type(text) == 'table' then
    redis.call('DEL', key)
    return nil
  end
  return text or nil
end

local function get_state(key)
  return state_of(get_text(key))
end

-- Whether `states`, comma-separated, has `state`.
local function is_one_of(state, states)
  return string.find(',' .. states .. ',', ',' .. state .. ',', 1, true) ~= nil
end

-- The one rule for rooms and messages: in one of these states it is in no list and no history,
-- and takes nothing. Every way into them goes through delete_room.lua or delete_message.lua,
-- which leave it in the record or the list too.
local function is_gone(state)
  return state == 'DELETING' or state == 'DELETED'
end

-- The message's room in its state, and the state without it.
local function room_of(text)
  return text and string.match(text, '|[^|]+|([^,|]+)') or nil
end

local function without_room(text)
  local name, log = string.match(text, '^(%u+)|(.+)$')
  log = string.gsub(log, '|[^,|]*', '')
  return name .. '|' .. log
end

-- What stands at a state's key after `old`: the new state, the log with one more transition, and
-- the message's room (`room_id`, or the one in `old`). The room stays until MySQL knows the
-- message (`room_id` is '': SENT alone does not say so, a host may set it earlier) or nobody has
-- to find it any more. A process of the version before appends to what it takes for the log,
-- behind the room: 'SENT|P1764000000000|<room id>,R1764000000003'.
local function with_state(old, to, now, room_id)
  local log = old and string.match(old, '|(.+)$')
  log = log and string.gsub(log, '|[^,|]*', '')
  room_id = room_id or room_of(old) or ''
  room_id = room_id ~= '' and to ~= 'DELETED' and '|' .. room_id or ''
  if not log then return to .. '|' .. STATE_CODE[to] .. int(now) .. room_id end
  local _, commas = string.gsub(log, ',', '')
  for _ = LOG_LENGTH - 1, commas do log = string.match(log, ',(.*)$') end
  return to .. '|' .. log .. ',' .. STATE_CODE[to] .. int(now) .. room_id
end

-- The codes of the states at `keys`, each one of `valid`; of a missing one what `missing(index)`
-- says.
local function state_codes_of(keys, valid, missing)
  local codes = {}
  for first = 1, #keys, 1000 do -- a function of Lua takes no more arguments than some thousand
    local texts = redis.call('MGET', unpack(keys, first, math.min(first + 999, #keys)))
    for i, text in ipairs(texts) do
      local index, code = first + i - 1, STATE_CODE[text and string.match(text, '^%u+')]
      codes[index] = code and string.find(valid, code, 1, true) and code or missing(index)
    end
  end
  return table.concat(codes)
end

local function set_state(key, to, now, ttl_ms, room_id)
  local value = with_state(get_text(key), to, now, room_id)
  if ttl_ms then
    redis.call('SET', key, value, 'PX', ttl_ms)
  else
    redis.call('SET', key, value)
  end
end
