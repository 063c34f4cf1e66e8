-- purpose: Put a room's dead letters back at the end of their event stream, in the order in which
--   they first came; when none is left, what waits in the stream of the room goes behind them and
--   the room is blocked no longer. All of it or nothing. Events keep their first id in `was`. The
--   records learn what their loads and their TTL have to wait for.
-- KEYS: dead_letters; event_stream; blocked_rooms; room_record; account_record; rooms; order
-- ARGV: room_id; last_letter the last one to go, '' for all;
--   longest_stream int that is looked through;
--   note_ttl_ms int of a note in the place of an account record
-- returns: {0, dead letters put back, dead letters left} | {6, 'backlog'} the stream is too long
--   | {2} no such dead letter
refuse_newer(redis.call('HGET', room_record, 'format'))
refuse_newer(redis.call('HGET', account_record, 'format'))
local letters, left = {}, 0
each_event(dead_letters, function(id, flat, fields)
  if fields.dead_group == room_id then
    letters[#letters + 1] = { id = id, flat = flat, fields = fields, was = fields.dead_entry }
  end
end)
table.sort(letters, function(a, b) return a.was ~= b.was and id_at_most(a.was, b.was) end)
if last_letter ~= '' then
  local last
  for i, letter in ipairs(letters) do
    if letter.id == last_letter then last = i end
  end
  if not last then return { NOT_FOUND } end
  left = #letters - last
  for i = #letters, last + 1, -1 do letters[i] = nil end
end

-- Events of the room that came since would be written before its dead letters: they go behind them.
local later = {}
if left == 0 then
  if redis.call('XLEN', event_stream) > longest_stream then return { FULL, 'backlog' } end
  each_event(event_stream, function(id, flat, fields)
    if fields.key == room_id and not fields.was then
      later[#later + 1] = { id = id, flat = flat, fields = fields, was = id }
    end
  end)
end

local newest, newest_of_account
local function put_back(letter)
  local flat = {}
  for i = 1, #letter.flat, 2 do
    if string.sub(letter.flat[i], 1, 5) ~= 'dead_' then
      flat[#flat + 1] = letter.flat[i]
      flat[#flat + 1] = letter.flat[i + 1]
    end
  end
  flat[#flat + 1] = 'was'
  flat[#flat + 1] = letter.was
  newest = redis.call('XADD', event_stream, '*', unpack(flat))
  -- Only these change the account's list.
  local kind = letter.fields.type
  if kind == 'CHAT_ROOM_CREATE' or kind == 'CHAT_ROOM_DELETE'
    or string.find(letter.fields.payload or '', '"sender_type":"USER"', 1, true) then
    newest_of_account = newest
  end
end
for _, letter in ipairs(letters) do
  put_back(letter)
  redis.call('XDEL', dead_letters, letter.id)
end
for _, event in ipairs(#letters > 0 and later or {}) do
  put_back(event)
  redis.call('XDEL', event_stream, event.id)
end
set_dead_letters(blocked_rooms, room_id, left)

local room = read_fields(room_record, { 'next_seq', 'dirty', 'dropped' })
if newest then
  -- Without a last event it was loaded from MySQL, which does not know these dead letters.
  if not room.dirty then
    redis.call('HSET', room_record, 'epoch', room.next_seq and STALE_GENERATION or NO_GENERATION)
  end
  redis.call('HSET', room_record, 'dirty', newest)
  pin(room_record)
end
if left == 0 and room.dropped then
  redis.call('HDEL', room_record, 'dropped')
  redis.call('HSET', room_record, 'epoch', STALE_GENERATION)
end
if newest_of_account then
  local is_known = redis.call('HEXISTS', account_record, 'len') == 1
  redis.call('HSET', account_record, 'dirty', newest_of_account)
  if is_known then
    pin(account_record, rooms, order)
  else
    redis.call('HSET', account_record, 'epoch', NO_GENERATION)
    redis.call('PEXPIRE', account_record, note_ttl_ms)
  end
end
return { OK, #letters, left }
