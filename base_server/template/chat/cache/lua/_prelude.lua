-- Shared by every chat script: answers, clock, states, list entries. Locals only (a global would poison the server).
local OK, COLD, NOT_FOUND, BUSY, MISMATCH, UNSURE, FULL, LOST, WAIT, REFUSED, PARTIAL, REPEAT, DAMAGED =
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12

local LETTER = {
  COMPOSING = 'C', CREATING = 'C', PENDING = 'P', PROCESSING = 'R',
  SENT = 'S', ACTIVE = 'A', DELETING = 'X', DELETED = 'D',
}
local LOG_LENGTH = 5
-- Values of record fields that stand for something else; chat_records.py says what.
local STALE_GENERATION = '0'
local NO_GENERATION = '-1'
local NO_EVENT = '0-0'
local UNNAMED_VERSION = '-1'
-- Of the records that these scripts write; see FORMAT in chat_records.py.
local FORMAT = 1

-- Before anything is written: a record of a newer version is nothing that this version understands. Its process backs off
-- as in an outage, and leaves the record to the newer ones. (Without a number it is of format 1.)
local function refuse_newer(format)
  if format and (tonumber(format) or 0) > FORMAT then
    error({ err = 'NEWERFORMAT a record has format ' .. format .. ', this server knows ' .. FORMAT .. ': upgrade it' })
  end
end

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

-- A state and its last transitions in one string: 'SENT|P1764000000000,R1764000000003,S1764000000009'. While a message
-- is not in MySQL its room follows ('PENDING|P1764000000000|<room id>'): state calls get no room. Anything else counts
-- as absent.
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

-- The one rule for rooms and messages: in one of these states it is in no list and no history, and takes nothing. Every
-- way into them goes through delete_room.lua or delete_message.lua, which leave it in the record or the list too.
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

-- What stands at a state's key after `old`: the new state, the log with one more transition, and the message's room
-- (`room_id`, or the one in `old`) until MySQL knows the message (`room_id` is '': SENT alone does not say so, a host may
-- set it earlier) or nobody has to find it any more. A process of the version before appends to what it takes for the log,
-- behind the room: 'SENT|P1764000000000|<room id>,R1764000000003'.
local function with_state(old, to, now, room_id)
  local log = old and string.match(old, '|(.+)$')
  log = log and string.gsub(log, '|[^,|]*', '')
  room_id = room_id or room_of(old) or ''
  room_id = room_id ~= '' and to ~= 'DELETED' and '|' .. room_id or ''
  if not log then return to .. '|' .. LETTER[to] .. int(now) .. room_id end
  local _, commas = string.gsub(log, ',', '')
  for _ = LOG_LENGTH - 1, commas do log = string.match(log, ',(.*)$') end
  return to .. '|' .. log .. ',' .. LETTER[to] .. int(now) .. room_id
end

-- The letters of the states at `keys`, each one of `valid`; of a missing one what `missing(place)` says.
local function letters_of(keys, valid, missing)
  local letters = {}
  for first = 1, #keys, 1000 do -- a function of Lua takes no more arguments than some thousand
    local texts = redis.call('MGET', unpack(keys, first, math.min(first + 999, #keys)))
    for i, text in ipairs(texts) do
      local letter = LETTER[text and string.match(text, '^%u+')]
      letters[first + i - 1] = letter and string.find(valid, letter, 1, true) and letter or missing(first + i - 1)
    end
  end
  return table.concat(letters)
end

local function set_state(key, to, now, ttl_ms, room_id)
  local value = with_state(get_text(key), to, now, room_id)
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
  return string.byte(item) == 120
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

-- A reply that nobody ended yet. (Text cannot look like it: its quotes are escaped.)
local function is_running(item)
  return string.find(item, '"is_streaming":true,', 1, true) ~= nil
end

-- Offset of a message in the window, newest first; nil when it is not there.
local function find_entry(messages, message_id)
  local last = redis.call('LLEN', messages) - 1
  while last >= 0 do
    local first = math.max(0, last - 19)
    local items = redis.call('LRANGE', messages, first, last)
    for i = #items, 1, -1 do
      if entry_id(items[i]) == message_id then return first + i - 1, items[i] end
    end
    last = first - 1
  end
  return nil
end

-- A message at the seq that its process knows, or wherever it is: a load may have given it another number (0033).
local function find_placed(messages, floor, seq, message_id)
  local offset = floor and tonumber(seq) - tonumber(floor) or -1
  local item = offset >= 0 and redis.call('LINDEX', messages, offset)
  if item and entry_id(item) == message_id then return item end
  local _, found = find_entry(messages, message_id)
  return found
end

-- Is the room's record loaded, whole, of this Redis run, and the caller's? nil = yes, else the answer to give.
local function check_room(rec, messages, epoch, owner)
  local v = redis.call('HMGET', rec, 'owner', 'gone', 'epoch', 'len', 'format')
  refuse_newer(v[5])
  if v[1] and v[1] ~= owner then return NOT_FOUND end
  if v[2] then return NOT_FOUND end
  if not v[3] or v[3] ~= redis.call('GET', epoch) or tonumber(v[4]) ~= redis.call('LLEN', messages) then
    return COLD
  end
  return nil
end

local function check_account(rec, rooms, order, epoch, owner)
  local v = redis.call('HMGET', rec, 'owner', 'epoch', 'len', 'format')
  refuse_newer(v[4])
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

-- Of a record that came from another Redis run as 'ready': that run may have forgotten a claim, and with it that the
-- question was asked. The process that asked writes on, and so marks it; anybody else claims it after its lease alone.
local UNSURE_PHASE = 'unsure'

-- Whether the process with this claim may write the reply: nobody has claimed it, or it has.
local function may_write(phase, claim)
  return phase == 'ready' or phase == UNSURE_PHASE or phase == 'calling ' .. claim
end

-- A command on the leases. Those of another type count as missing, and go. Their type is looked at only
-- after an error, for every send comes here three times.
local function on_leases(command, leases, ...)
  local answer = redis.pcall(command, leases, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if redis.call('TYPE', leases).ok ~= 'zset' then redis.call('DEL', leases) end
  return redis.call(command, leases, ...)
end

-- Give the turn to the next one waiting, as 'ready', or close it. Returns the token that is ready, or ''.
local function next_turn(rec, turns, leases, room_id, ready_until)
  local waiting = redis.call('LPOP', turns)
  if not waiting then
    redis.call('HDEL', rec, 'turn_token', 'turn', 'turn_phase', 'turn_at', 'turn_facts')
    on_leases('ZREM', leases, room_id)
    return ''
  end
  local token = string.match(waiting, '^([^|]+)|')
  redis.call('HDEL', rec, 'turn_at', 'turn_facts')
  redis.call('HSET', rec, 'turn_token', token, 'turn', waiting, 'turn_phase', 'ready')
  on_leases('ZADD', leases, int(ready_until), room_id)
  return token
end

-- What is unpersisted has no TTL.
local function pin(...)
  for _, key in ipairs({ ... }) do redis.call('PERSIST', key) end
end

-- Tell every process about a reply: 'text' (there is more), 'ended', 'ready' (its turn has come), 'watched' (somebody
-- on another process reads it). Only hints: who misses one looks again a little later; a Redis user that may not publish
-- (an ACL without channels) must not break off a script that has written.
local function tell(news, kind, reply_id)
  redis.pcall('PUBLISH', news, kind .. ' ' .. reply_id)
end

-- The parts of a turn as accept_send writes it: token, reply id, reply seq, question id, persona as JSON.
local function parts_of(turn)
  return string.match(turn, '^([^|]+)|([^|]+)|(%d+)|([^|]+)|%d+|(.*)$')
end

local function find_waiting(turns, field, value)
  for _, item in ipairs(redis.call('LRANGE', turns, 0, -1)) do
    local token, reply_id = string.match(item, '^([^|]+)|([^|]+)|')
    if (field == 'token' and token or reply_id) == value then return item end
  end
  return nil
end

-- Bytes of the reply that its stream holds; 0 without one. (Behind its end: one more.)
local function stream_length(stream)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return last and tonumber(string.match(last[1], '^%d+')) or 0
end

-- Append text that begins at byte `from`; what of it is there already (a repeat) is not written again.
local function append_text(stream, from, text)
  local have = stream_length(stream)
  if from + #text > have then
    redis.call('XADD', stream, int(from + #text) .. '-0', 'text', string.sub(text, have - from + 1))
  end
end

-- Keys of another type count as missing, and go before anything is written. A room without its list or its waiting turns
-- is not whole: its load puts right what only they knew.
local function drop_other_types(k)
  local dropped = 0
  for key, kind in pairs({ [k.messages] = 'list', [k.turns] = 'list', [k.stream] = 'stream' }) do
    local found = redis.call('TYPE', key).ok
    if found ~= 'none' and found ~= kind then
      redis.call('DEL', key)
      if kind == 'list' then dropped = dropped + 1 end
    end
  end
  if dropped > 0 and redis.call('HEXISTS', k.rec, 'len') == 1 then redis.call('HSET', k.rec, 'epoch', STALE_GENERATION) end
end

-- The payload of a message's event: `open_payload` says whose room it is, `tail` is the entry's; `more` members or ''.
local function payload_of(open_payload, message_id, tail, more)
  return open_payload .. '"message_data":{"message_id":"' .. message_id .. '",' .. tail .. more .. '}'
end

-- Put an end to a reply, running or waiting: its text takes its place in the list, its event is queued, its turn goes on.
-- `k`: rec, messages, lane, news, leases, turns, open (the account's open replies), state and stream of the reply.
-- Returns the final entry, and the token that is ready now or ''.
local function put_end(k, room_id, turn, tail, open_payload, reason, ready_ms, stream_ttl_ms, now)
  local token, reply_id, seq = parts_of(turn)
  local v = redis.call('HMGET', k.rec, 'turn_token', 'floor', 'w:' .. reply_id, 'epoch')
  local offset = v[2] and tonumber(seq) - tonumber(v[2]) or -1
  local current = offset >= 0 and redis.call('LINDEX', k.messages, offset) or ''
  if not current or entry_id(current) ~= reply_id or is_tombstone(current) then current = '' end
  local at = current ~= '' and entry_at(current) or iso(now)
  local event = redis.call('XADD', k.lane, '*', 'id', reply_id, 'type', 'CHAT_MESSAGE_SAVE',
    'payload', payload_of(open_payload, reply_id, tail, ''), 'priority', '2', 'key', room_id, 'at', int(now), 'seq', seq, 'time', at)
  local final = entry(reply_id, room_id, tonumber(seq), at, tail)
  if current ~= '' then redis.call('LSET', k.messages, offset, final) end
  redis.call('HSET', k.rec, 'dirty', event)
  if not v[4] then redis.call('HSET', k.rec, 'epoch', NO_GENERATION) end
  redis.call('HDEL', k.rec, 'w:' .. reply_id)
  redis.pcall('ZREM', k.open, reply_id)
  -- Deleted meanwhile under an id of a host's own: that stays.
  if not is_gone(get_state(k.state)) then set_state(k.state, 'PENDING', now) end
  local ready = ''
  if v[1] == token then
    ready = next_turn(k.rec, k.turns, k.leases, room_id, now + tonumber(ready_ms))
  else
    redis.call('LREM', k.turns, 1, turn)
  end
  local length = stream_length(k.stream)
  if length > 0 then
    redis.call('XADD', k.stream, int(length + 1) .. '-0', 'end', reason)
    redis.call('PEXPIRE', k.stream, stream_ttl_ms)
  end
  if ready ~= '' then tell(k.news, 'ready', string.match(redis.call('HGET', k.rec, 'turn'), '^[^|]+|([^|]+)')) end
  return final, ready, v[3]
end

-- put_end for whoever does not know the text: with what the stream holds, and the usage that its process noted last.
local function put_early_end(k, room_id, turn, reason, open_payload, ready_ms, stream_ttl_ms, now)
  drop_other_types(k)
  local token, reply_id, _, question_id, persona = parts_of(turn)
  local v = redis.call('HMGET', k.rec, 'turn_token', 'turn_at', 'turn_facts')
  local pieces = {}
  for _, item in ipairs(redis.call('XRANGE', k.stream, '-', '+')) do pieces[#pieces + 1] = item[2][2] end
  local content = cjson.encode(table.concat(pieces))
  local metadata = '{"ai_persona":' .. persona .. ',"finish_reason":"' .. reason .. '"'
  if v[1] == token and v[3] and v[3] ~= '' then metadata = metadata .. ',' .. v[3] end
  if v[1] == token and v[2] then metadata = metadata .. ',"latency_ms":' .. int(now - tonumber(v[2])) end
  local parent = ',"parent_message_id":"' .. question_id .. '"'
  local body = '"sender_type":"AI","content":' .. content .. parent .. ',"metadata":' .. metadata .. '}}'
  local final, ready = put_end(k, room_id, turn, body, open_payload, reason, ready_ms, stream_ttl_ms, now)
  tell(k.news, 'ended', reply_id)
  return final, ready
end
