-- purpose: Start loading a room or an account's list from MySQL: only when nothing of it is still
--   on its way there. The token is deleted by any write, and the end of a load without it is
--   refused. Loaders of several processes share it. A room with dead letters is nowhere but here:
--   its record is taken over into this generation, if MySQL is not ahead of it. Open replies
--   outlive their room's load: the record with its slot stays until the load's end, and they go
--   on meanwhile. Only one whose slot was lost with the record ends first: whether it was asked
--   nobody knows any more.
-- KEYS: record; generation; event_stream; watermark; load_key the load's token;
--   list messages, or the rooms set; other room JSON, or the account's order; blocked_rooms;
--   waiters; message_states prefix of message states; server_run of the generation
-- ARGV: kind 'room'|'account'; token; token_ttl_ms int; room_id '' for an account;
--   stored_last_seq int the room's last seq in MySQL, '' when not known yet;
--   compared_in generation in which the stream's mark in MySQL was compared, '' when it was not;
--   account_db_key
-- returns: {0, generation, token, last event of the record or '', open slot…} go on with this
--   token | {11} loaded meanwhile, or deleted | {8} events of an older record or an older Redis
--   run are not in MySQL yet | {8, slot} they are, but this slot was lost: end it first | {5} say
--   the room's last seq in MySQL | {5, generation} first compare the stream's mark in MySQL | {6,
--   'dead'} a room with dead letters is not whole here
-- Entries that somebody else's handler pushed go at once when the stream is empty, else when
-- their event was read or this time is over (the database may be away): the room stays usable, a
-- later event still gets its seq.
local FOREIGN_WAIT_MS = 1000
local known = read_fields(record, { 'epoch', 'gone', 'dirty', 'turn', 'len', 'owner', 'format' })
refuse_newer(known.format)
local length, last_event = tonumber(known.len), known.dirty
local current = redis.call('GET', generation)
if not current then
  -- Somebody flushed Redis while it ran: a run of its own, that no record of before belongs to.
  -- It is noted as this server's: else the next process that connects would take it for an older
  -- one, and all that was loaded since.
  current = int(now_ms())
  redis.call('MSET', generation, current, server_run,
    string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'))
end

-- The room's JSON from its record, with the TTL that the record has.
local function write_room_json()
  local room = read_fields(record, { 'title', 'persona', 'created', 'last_ms', 'count' })
  redis.call('SET', other, format_room(room_id, room.title, room.persona, room.created,
    iso(tonumber(room.last_ms)), tonumber(room.count)))
  local ttl = redis.call('PTTL', record)
  if ttl > 0 then redis.call('PEXPIRE', other, ttl) end
end

-- A reply that nobody ended and whose slot was lost. It gets one again, with the reply's id as
-- its token, to be ended by. Where the record is there, and it is not the reply that runs, it was
-- never asked: it waits again.
local function find_lost_slot(open)
  local open_ids = {}
  local running_seq = known.turn and tonumber(string.match(known.turn, '^[^|]+|[^|]+|(%d+)|'))
  for _, slot in ipairs(open) do
    local slot_token, reply_id = string.match(slot, '^([^|]+)|([^|]+)|')
    if slot_token == reply_id then return slot end
    open_ids[reply_id or ''] = true
  end
  for _, item in ipairs(redis.call('LRANGE', list, 0, -1)) do
    local seq, question_id, persona = string.match(item, '"seq":(%d+),.-' ..
      '"parent_message_id":"([^"]+)","is_streaming":true,"metadata":{"ai_persona":(.+)}}$')
    local reply_id = id_of(item)
    if seq and not open_ids[reply_id] and get_state(message_states .. reply_id) == 'COMPOSING' then
      local waits = length and (not running_seq or tonumber(seq) > running_seq)
      local slot_token = (waits and 'again-' or '') .. reply_id
      local slot = table.concat({ slot_token, reply_id, seq, question_id, '0', persona }, '|')
      redis.call('RPUSH', waiters, slot)
      if not waits then return slot end
      open[#open + 1] = slot
    end
  end
  return nil
end

-- Loaded, or deleted, by another process since the caller looked?
if known.gone then return { DUPLICATE } end
if known.epoch == current and kind == 'room' then
  if length < redis.call('LLEN', list) then
    local seen, now = redis.call('HGET', record, 'foreign_at'), now_ms()
    if not seen then redis.call('HSET', record, 'foreign_at', int(now)) end
    if redis.call('XLEN', event_stream) > 0 and now - (seen or now) < FOREIGN_WAIT_MS then
      return { WAIT }
    end
    drop_foreign(list)
    redis.call('HDEL', record, 'foreign_at')
  end
  if length == redis.call('LLEN', list) then
    if redis.call('EXISTS', other) == 0 then write_room_json() end
    return { DUPLICATE }
  end
elseif known.epoch == current then
  -- An account of the same id that a global database lost may have left its list here: that is
  -- nobody's.
  if known.owner == account_db_key and length == redis.call('SCARD', list)
    and length == redis.call('ZCARD', other) then
    return { DUPLICATE }
  end
end

if room_id ~= '' and redis.call('HEXISTS', blocked_rooms, room_id) == 1 then
  local next_seq = redis.call('HGET', record, 'next_seq')
  if next_seq and not stored_last_seq then return { NEEDS_DATABASE } end
  if next_seq and stored_last_seq < tonumber(next_seq) then
    if length ~= redis.call('LLEN', list) then return { FULL, 'dead' } end
    write_room_json()
    redis.call('HSET', record, 'epoch', current)
    pin(record, list)
    return { DUPLICATE }
  end
end

-- What is on its way to MySQL comes first: of this record, and of what an older Redis run had here.
local first = redis.call('XRANGE', event_stream, '-', '+', 'COUNT', 1)[1]
local first_event = first and first[1]
if first_event and not known.epoch and not last_event
  and (redis.call('PTTL', list) == -1 or redis.call('PTTL', other) == -1) then
  -- A pinned list without its record: the record was lost. Which events are its own nobody knows
  -- any more: wait for all.
  last_event = last_event_of(event_stream)
  redis.call('HSET', record, 'epoch', NO_GENERATION, 'dirty', last_event)
end
if first_event and last_event and id_at_most(first_event, last_event) then return { WAIT } end
local mark = read_fields(watermark, { 'epoch', 'id', 'saved' })
if mark.epoch ~= current then
  -- A database that came back older, together with this Redis: what is here would be read from
  -- there, and be lost.
  if mark.saved and compared_in ~= current then return { NEEDS_DATABASE, current } end
  mark.id = last_event_of(event_stream) or NO_EVENT
  redis.call('HSET', watermark, 'epoch', current, 'id', mark.id)
end
if first_event and id_at_most(first_event, mark.id) then return { WAIT } end

local answer = { OK, current, '', '' }
if kind == 'room' then
  local open = redis.call('LRANGE', waiters, 0, -1)
  if known.turn then table.insert(open, 1, known.turn) end
  local lost = find_lost_slot(open)
  if lost then return { WAIT, lost } end
  for _, slot in ipairs(open) do answer[#answer + 1] = slot end
end
if #answer > 4 then
  answer[4] = last_event or ''
else
  redis.call('DEL', record, list)
  if kind == 'account' then redis.call('DEL', other) end
end
-- A load that is under way already is joined: the first to end it wins, and both had the same rows.
answer[3] = get_text(load_key) or token
redis.call('SET', load_key, answer[3], 'PX', token_ttl_ms)
return answer
