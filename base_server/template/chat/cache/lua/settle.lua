-- purpose: A batch is in MySQL: remove exactly its events, set SENT/ACTIVE/DELETED, note how far each room is saved,
--   trim windows (never above saved_seq), and let records expire whose last event this was. Run twice, nothing changes.
--   A record expires when its own last event is not
--   behind the last one written: then all of its events are in MySQL, but for those of a room with dead letters.
--   A Redis that has neither these events nor the note that they were written was emptied or is older than they are: its
--   records do not know them, so the batch's rooms and accounts are read from MySQL again. So is a room whose events took
--   other numbers in MySQL than in Redis.
-- KEYS: 1 persistence lane; 2 rooms with dead letters; 3 mark of the lane; 4 epoch; 5 run that it was made in; 6.. states of saved messages, then of deleted ones, then for each item of ARGV in order: r: room record, messages, card, room state. a: account record, rooms, order
-- ARGV: 1 event ids (csv); 2 number of saved messages; 3 number of deleted messages; 4 window; 5 TTL of windows in ms; 6 TTL of cards and room lists in ms; 7 state TTL in ms; 8 epoch|run when the batch was read; 9.. items: r room_id change(''|created|deleted) last_event saved_seqs(csv) notes(refused, renumbered); a last_event
-- returns: how many events are left in the lane
-- allow-oom: nothing: it removes more than it writes
-- What each record knew before this batch; read before anything is written, for one may be of a newer version.
local records = {}
do
  local k, i = 6 + tonumber(ARGV[2]) + tonumber(ARGV[3]), 9
  while i <= #ARGV do
    local v
    if ARGV[i] == 'r' then
      v = redis.call('HMGET', KEYS[k], 'owner', 'gone', 'epoch', 'dirty', 'saved_seq', 'ahead', 'floor', 'floor_at', 'older',
        'turn', 'len', 'last_ms', 'format')
      refuse_newer(v[13])
    else
      v = redis.call('HMGET', KEYS[k], 'dirty', 'cards_until', 'format')
      refuse_newer(v[3])
    end
    records[k] = v
    if ARGV[i] == 'r' then k, i = k + 4, i + 6 else k, i = k + 3, i + 2 end
  end
end
local saved, deleted, window, now = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), now_ms()
local window_ttl, list_ttl, state_ttl = ARGV[5], ARGV[6], ARGV[7]
local events = {}
for id in string.gmatch(ARGV[1], '[^,]+') do events[#events + 1] = id end
local is_known = true
if #events > 0 then
  local mark, last = redis.call('HGET', KEYS[3], 'saved'), events[#events]
  local is_noted = mark and id_at_most(last, mark)
  is_known = redis.call('XDEL', KEYS[1], unpack(events)) == #events
    or (is_noted and (get_text(KEYS[4]) or '') .. '|' .. (get_text(KEYS[5]) or '') == ARGV[8])
  if not is_noted then redis.call('HSET', KEYS[3], 'saved', last) end
end

-- A record without anything in it stops a load that read MySQL before this batch was there; the next load removes it.
local function forget(rec, ttl)
  if redis.call('HEXISTS', rec, 'len') == 1 then
    redis.call('HSET', rec, 'epoch', STALE_GENERATION)
  elseif redis.call('EXISTS', rec) == 0 then
    redis.call('HSET', rec, 'epoch', NO_GENERATION, 'dirty', NO_EVENT)
    redis.call('PEXPIRE', rec, ttl)
  end
end

local function all_written(dirty, last_event)
  return dirty and id_at_most(dirty, last_event)
end

local function settle_saved(key, text)
  local state = state_of(text)
  if state == 'PENDING' then text = with_state(text, 'PROCESSING', now) end
  if state == 'PENDING' or state == 'PROCESSING' then
    redis.call('SET', key, with_state(text, 'SENT', now, ''), 'PX', state_ttl)
  elseif state == 'SENT' and room_of(text) then
    -- A host had set it already: what is left is to forget the room.
    redis.call('SET', key, without_room(text), 'PX', state_ttl)
  end
end

local function settle_deleted(key)
  if get_state(key) ~= 'DELETED' then
    set_state(key, 'DELETED', now, state_ttl)
  else
    redis.call('PEXPIRE', key, state_ttl)
  end
end

local function settle_room_state(key, change)
  local state = get_state(key)
  if change == 'deleted' then
    if state ~= 'DELETED' then
      set_state(key, 'DELETED', now, state_ttl)
    else
      redis.call('PEXPIRE', key, state_ttl)
    end
  elseif change == 'created' and (state == 'PENDING' or state == 'PROCESSING') then
    if state == 'PENDING' then set_state(key, 'PROCESSING', now) end
    set_state(key, 'ACTIVE', now, state_ttl)
  end
end

-- Highest seq up to which all is saved; what was saved ahead of a running reply is kept aside.
local function advance(saved, ahead, csv)
  local set, rest = {}, {}
  for seq in string.gmatch(ahead .. ',' .. csv, '%d+') do
    if tonumber(seq) > saved then set[tonumber(seq)] = true end
  end
  while set[saved + 1] do
    saved = saved + 1
    set[saved] = nil
  end
  for seq in pairs(set) do rest[#rest + 1] = int(seq) end
  return saved, table.concat(rest, ',')
end

-- floor_at: every message accepted later is in the window (a tombstone keeps no time of its own: the latest one then).
local function trim(rec, messages, length, floor, last, floor_at, older, latest)
  if length <= window or floor > last then return end
  while length > window and floor <= last do
    local items = redis.call('LPOP', messages, math.min(length - window, last - floor + 1, 500))
    local claims, gone = {}, {}
    for i, item in ipairs(items) do
      local at = latest
      if not is_tombstone(item) then older, at = '1', entry_at(item) end
      if at > floor_at then floor_at = at end
      claims[i] = 's:' .. int(floor + i - 1)
    end
    for i, client_id in ipairs(redis.call('HMGET', rec, unpack(claims))) do
      if client_id then
        gone[#gone + 1] = claims[i]
        gone[#gone + 1] = 'c:' .. client_id
      end
    end
    if #gone > 0 then redis.call('HDEL', rec, unpack(gone)) end
    length, floor = length - #items, floor + #items
  end
  redis.call('HSET', rec, 'floor', int(floor), 'len', int(length), 'floor_at', floor_at, 'older', older)
end

local function settle_room(rec, v, messages, room_card, last_event, csv, notes, held)
  if not is_known and not v[2] or string.find(notes, 'renumbered', 1, true) then forget(rec, window_ttl) end
  if v[3] == NO_GENERATION then
    -- With a turn it is of a reply whose room Redis lost: the load takes it over.
    if is_known and all_written(v[4], last_event) and not v[10] then redis.call('DEL', rec) end
    return
  end
  if not v[1] then return end
  if v[2] then
    if all_written(v[4], last_event) and not held then redis.call('PEXPIRE', rec, state_ttl) end
    return
  end
  local saved, ahead = advance(tonumber(v[5]), v[6], csv)
  redis.call('HSET', rec, 'saved_seq', int(saved), 'ahead', ahead)
  local length = redis.call('LLEN', messages)
  if tonumber(v[11]) == length then
    -- The question of the open turn, and those that wait behind it, are still to be asked.
    local reply_seq = v[10] and tonumber(string.match(v[10], '^[^|]+|[^|]+|(%d+)'))
    local last = reply_seq and math.min(saved, reply_seq - 2) or saved
    trim(rec, messages, length, tonumber(v[7]), last, v[8], v[9], iso(tonumber(v[12])))
  end
  if all_written(v[4], last_event) and not v[10] and not held then
    redis.call('PEXPIRE', rec, window_ttl)
    redis.call('PEXPIRE', messages, window_ttl)
    redis.call('PEXPIRE', room_card, list_ttl)
  end
end

-- The list expires no later than the cards that it was filled with; when those are nearly gone it goes at once.
local function settle_account(rec, v, rooms, order, last_event)
  if not is_known then forget(rec, list_ttl) end
  if not v[2] or not all_written(v[1], last_event) then return end
  local left = math.min(tonumber(list_ttl), tonumber(v[2]) - now)
  if left < tonumber(list_ttl) / 4 then
    redis.call('DEL', rec, rooms, order)
    return
  end
  for _, key in ipairs({ rec, rooms, order }) do redis.call('PEXPIRE', key, int(left)) end
end

if saved > 0 then
  for i, text in ipairs(redis.call('MGET', unpack(KEYS, 6, 5 + saved))) do settle_saved(KEYS[5 + i], text) end
end
for k = 6 + saved, 5 + saved + deleted do settle_deleted(KEYS[k]) end
local k, i = 6 + saved + deleted, 9
while i <= #ARGV do
  if ARGV[i] == 'r' then
    local notes = ARGV[i + 5]
    local held = string.find(notes, 'refused', 1, true) or redis.call('HEXISTS', KEYS[2], ARGV[i + 1]) == 1
    settle_room_state(KEYS[k + 3], ARGV[i + 2])
    settle_room(KEYS[k], records[k], KEYS[k + 1], KEYS[k + 2], ARGV[i + 3], ARGV[i + 4], notes, held)
    k, i = k + 4, i + 6
  else
    settle_account(KEYS[k], records[k], KEYS[k + 1], KEYS[k + 2], ARGV[i + 1])
    k, i = k + 3, i + 2
  end
end
return redis.call('XLEN', KEYS[1])
