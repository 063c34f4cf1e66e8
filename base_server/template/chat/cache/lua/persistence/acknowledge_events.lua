-- purpose: A batch is in MySQL: remove exactly its events, set SENT/ACTIVE/DELETED, note how far
--   each room is saved, trim windows (never above saved_seq), and let records expire whose last
--   event this was. Run twice, nothing changes. A record expires when its own last event is not
--   behind the last one written: then all of its events are in MySQL, but for those of a room
--   with dead letters. A Redis that has neither these events nor the note that they were written
--   was emptied or is older than they are: its records do not know them, so the batch's rooms and
--   accounts are read from MySQL again. So is a room whose events took other numbers in MySQL
--   than in Redis.
-- KEYS: event_stream; blocked_rooms; watermark; generation; server_run of the generation;
--   touched_keys... states of saved messages, then of deleted ones, then for each item in order:
--     of a room its record, messages, JSON, state, of an account its record, rooms, order
-- ARGV: event_ids csv; saved_count int; deleted_count int; window int; window_ttl_ms int;
--   list_ttl_ms int of the rooms' JSON and of room lists; state_ttl_ms int;
--   read_in generation|run when the batch was read;
--   items... 'r', room_id, change(''|created|deleted), last event, saved seqs(csv),
--     notes(refused, renumbered) of a room, or 'a', last event of an account
-- returns: how many events are left in the stream
-- allow-oom: nothing: it removes more than it writes
local now = now_ms()
local ROOM_FIELDS = { 'owner', 'gone', 'epoch', 'dirty', 'saved_seq', 'ahead', 'floor', 'floor_at',
  'older', 'turn', 'len', 'last_ms', 'format' }
local ACCOUNT_FIELDS = { 'dirty', 'cards_until', 'format' }
-- What each record knew before this batch; read before anything is written, for one may be of a
-- newer version, and then nothing of the batch may be acknowledged.
local rooms, accounts = {}, {}
local key, item = 1 + saved_count + deleted_count, 1
while item <= #items do
  if items[item] == 'r' then
    local room = read_fields(touched_keys[key], ROOM_FIELDS)
    refuse_newer(room.format)
    room.record, room.messages, room.json, room.state = unpack(touched_keys, key, key + 3)
    room.id, room.change, room.last_event, room.seqs, room.notes = unpack(items, item + 1, item + 5)
    rooms[#rooms + 1] = room
    key, item = key + 4, item + 6
  else
    local account = read_fields(touched_keys[key], ACCOUNT_FIELDS)
    refuse_newer(account.format)
    account.record, account.rooms, account.order = unpack(touched_keys, key, key + 2)
    account.last_event = items[item + 1]
    accounts[#accounts + 1] = account
    key, item = key + 3, item + 2
  end
end

-- Does this Redis know these events? It does if all are there, or if this very server noted
-- before that they were written: this call was made, and its answer lost.
local events = {}
for id in string.gmatch(event_ids, '[^,]+') do events[#events + 1] = id end
local is_known = true
if #events > 0 then
  local saved_event, last = redis.call('HGET', watermark, 'saved'), events[#events]
  local is_noted = saved_event and id_at_most(last, saved_event)
  is_known = redis.call('XDEL', event_stream, unpack(events)) == #events
    or (is_noted and (get_text(generation) or '') .. '|' .. (get_text(server_run) or '') == read_in)
  if not is_noted then redis.call('HSET', watermark, 'saved', last) end
end

-- Whether the record's last event is not behind the batch's last one of it: MySQL has all of them.
local function is_all_written(record)
  return record.dirty and id_at_most(record.dirty, record.last_event)
end

local function acknowledge_room(room)
  local is_renumbered = string.find(room.notes, 'renumbered', 1, true)
  if not is_known and not room.gone or is_renumbered then forget(room.record, window_ttl_ms) end
  if room.epoch == NO_GENERATION then
    -- A note has done its work. With a slot it is of a reply whose room Redis lost: the load
    -- takes it over.
    if is_known and is_all_written(room) and not room.turn then redis.call('DEL', room.record) end
    return
  end
  if not room.owner then return end
  local is_blocked = string.find(room.notes, 'refused', 1, true)
    or redis.call('HEXISTS', blocked_rooms, room.id) == 1
  local may_expire = is_all_written(room) and not is_blocked
  if room.gone then
    if may_expire then redis.call('PEXPIRE', room.record, state_ttl_ms) end
    return
  end
  local saved_seq, ahead = advance_saved(tonumber(room.saved_seq), room.ahead, room.seqs)
  redis.call('HSET', room.record, 'saved_seq', int(saved_seq), 'ahead', ahead)
  -- A list of another length is somebody else's work, and waits for the room's load.
  if tonumber(room.len) == redis.call('LLEN', room.messages) then
    -- The question of the open slot, and those that wait behind it, are still to be asked.
    local reply_seq = room.turn and tonumber(string.match(room.turn, '^[^|]+|[^|]+|(%d+)'))
    local last_seq = reply_seq and math.min(saved_seq, reply_seq - 2) or saved_seq
    trim_window(room.record, room, room.messages, window, last_seq)
  end
  if may_expire and not room.turn then
    redis.call('PEXPIRE', room.record, window_ttl_ms)
    redis.call('PEXPIRE', room.messages, window_ttl_ms)
    redis.call('PEXPIRE', room.json, list_ttl_ms)
  end
end

-- The list expires no later than the rooms' JSON that it was loaded with; when that is nearly
-- gone it goes at once.
local function acknowledge_account(account)
  if not is_known then forget(account.record, list_ttl_ms) end
  if not account.cards_until or not is_all_written(account) then return end
  local left = math.min(list_ttl_ms, tonumber(account.cards_until) - now)
  if left < list_ttl_ms / 4 then
    redis.call('DEL', account.record, account.rooms, account.order)
    return
  end
  for _, each in ipairs({ account.record, account.rooms, account.order }) do
    redis.call('PEXPIRE', each, int(left))
  end
end

if saved_count > 0 then
  for i, text in ipairs(redis.call('MGET', unpack(touched_keys, 1, saved_count))) do
    acknowledge_saved(touched_keys[i], text, now, state_ttl_ms)
  end
end
for i = saved_count + 1, saved_count + deleted_count do
  acknowledge_deleted(touched_keys[i], now, state_ttl_ms)
end
for _, room in ipairs(rooms) do
  acknowledge_room_state(room.state, room.change, now, state_ttl_ms)
  acknowledge_room(room)
end
for _, account in ipairs(accounts) do acknowledge_account(account) end
return redis.call('XLEN', event_stream)
