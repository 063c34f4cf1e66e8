-- Shared by every chat script: answers, clock, states, list entries. Locals only (a global would poison the server).
local OK, COLD, NOT_FOUND, BUSY, MISMATCH, UNSURE, FULL, LOST, WAIT, REFUSED, PARTIAL, REPEAT =
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11

local LETTER = {
  COMPOSING = 'C', CREATING = 'C', PENDING = 'P', PROCESSING = 'R',
  SENT = 'S', ACTIVE = 'A', DELETING = 'X', DELETED = 'D',
}
local LOG_LENGTH = 5

-- Redis time in ms; read once a script (it stands still on Valkey and moves on Redis).
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- ISO 8601 in UTC of a time in ms (days to civil date: Howard Hinnant, "chrono-compatible low-level date algorithms").
local function iso(ms)
  local day = math.floor(ms / 86400000)
  local rest = ms - day * 86400000
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03d+00:00', year, month,
    doy - math.floor((153 * mp + 2) / 5) + 1, math.floor(rest / 3600000), math.floor(rest / 60000) % 60,
    math.floor(rest / 1000) % 60, rest % 1000)
end

-- Numbers as whole text: Lua would write 1.7e+12.
local function int(n)
  return string.format('%.0f', n)
end

-- A state and its last transitions in one string: 'SENT|P1764000000000,R1764000000003,S1764000000009'.
-- Anything else counts as absent.
local function state_of(text)
  local name = text and string.match(text, '^[A-Z]+')
  return name and LETTER[name] and name or nil
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

-- What stands at a state's key after `old`: the new state, and the log with one more transition.
local function with_state(old, to, now)
  local log = old and string.match(old, '|(.+)$')
  if not log then return to .. '|' .. LETTER[to] .. int(now) end
  local _, commas = string.gsub(log, ',', '')
  for _ = LOG_LENGTH - 1, commas do log = string.match(log, ',(.*)$') end
  return to .. '|' .. log .. ',' .. LETTER[to] .. int(now)
end

local function set_state(key, to, now, ttl_ms)
  local value = with_state(get_text(key), to, now)
  if ttl_ms then
    redis.call('SET', key, value, 'PX', int(ttl_ms))
  else
    redis.call('SET', key, value)
  end
end

-- Stream ids compare by time, then by counter.
local function id_at_most(a, b)
  local ams, an = string.match(a, '^(%d+)-(%d+)$')
  local bms, bn = string.match(b, '^(%d+)-(%d+)$')
  ams, bms = tonumber(ams), tonumber(bms)
  return ams < bms or (ams == bms and tonumber(an) <= tonumber(bn))
end

-- The room's card, the JSON of ChatRoom. Title and persona are JSON fragments made in Python and never decoded here.
local function card(room_id, title, persona, created_at, last_ms, count)
  return '{"room_id":"' .. room_id .. '","title":' .. title .. ',"ai_persona":' .. persona ..
    ',"created_at":"' .. created_at .. '","last_message_at":"' .. iso(last_ms) .. '","message_count":' .. int(count) .. '}'
end

-- Entry of the message list: head made here, tail (sender, content, metadata) made in Python.
local function entry(message_id, room_id, seq, at, tail)
  return '{"message_id":"' .. message_id .. '","room_id":"' .. room_id .. '","seq":' .. int(seq) ..
    ',"timestamp":"' .. at .. '",' .. tail
end

-- A deleted message leaves 'x' and its id in its place.
local function is_tombstone(item)
  return string.sub(item, 1, 1) == 'x'
end

-- Of an entry that is damaged: ''.
local function entry_id(item)
  if is_tombstone(item) then return string.sub(item, 2) end
  return string.match(item, '^{"message_id":"([^"]+)"') or ''
end

local function entry_at(item)
  return string.match(item, '^[^}]-"timestamp":"([^"]+)"') or ''
end

-- Take out what a handler of somebody else's pushed into the list by itself; its event brings it back with a seq.
local function drop_foreign(messages)
  local dropped = 0
  for _, item in ipairs(redis.call('LRANGE', messages, 0, -1)) do
    if not is_tombstone(item) and not string.match(item, '^{"message_id":"[^"]+","room_id":"[^"]+","seq":%d+,') then
      dropped = dropped + redis.call('LREM', messages, 0, item)
    end
  end
  return dropped
end

-- Offset of a message in the window, newest first; nil when it is not there.
local function find_entry(messages, message_id)
  local items = redis.call('LRANGE', messages, 0, -1)
  for i = #items, 1, -1 do
    if entry_id(items[i]) == message_id then return i - 1, items[i] end
  end
  return nil
end

-- Is the room's record loaded, whole, of this Redis run, and the caller's? nil = yes, else the answer to give.
local function check_room(rec, messages, epoch, owner)
  local v = redis.call('HMGET', rec, 'owner', 'gone', 'epoch', 'len')
  if v[1] and v[1] ~= owner then return NOT_FOUND end
  if v[2] then return NOT_FOUND end
  if not v[3] or v[3] ~= redis.call('GET', epoch) or tonumber(v[4]) ~= redis.call('LLEN', messages) then
    return COLD
  end
  return nil
end

local function check_account(rec, rooms, order, epoch, owner)
  local v = redis.call('HMGET', rec, 'owner', 'epoch', 'len')
  if not v[2] or v[1] ~= owner or v[2] ~= redis.call('GET', epoch) then return COLD end
  local len = tonumber(v[3])
  if len ~= redis.call('SCARD', rooms) or len ~= redis.call('ZCARD', order) then return COLD end
  return nil
end

-- A time after the newest activity of the account: two things in one millisecond keep their order, here and in MySQL.
local function after_latest(order, now)
  local newest = redis.call('ZREVRANGE', order, 0, 0, 'WITHSCORES')[2]
  return newest and math.max(now, tonumber(newest) + 1) or now
end

-- Give the turn to the next one waiting, as 'ready', or close it. Returns the token that is ready, or ''.
local function next_turn(rec, turns, leases, room_id, ready_until)
  local waiting = redis.call('LPOP', turns)
  if not waiting then
    redis.call('HDEL', rec, 'turn_token', 'turn', 'turn_phase')
    redis.call('ZREM', leases, room_id)
    return ''
  end
  local token = string.match(waiting, '^([^|]+)|')
  redis.call('HSET', rec, 'turn_token', token, 'turn', waiting, 'turn_phase', 'ready')
  redis.call('ZADD', leases, int(ready_until), room_id)
  return token
end

-- What is unpersisted has no TTL.
local function pin(...)
  for _, key in ipairs({ ... }) do redis.call('PERSIST', key) end
end
