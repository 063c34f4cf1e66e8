-- purpose: Start loading a room or an account's list from MySQL: only when nothing of it is still on its way there.
--   The token is deleted by any write, and a fill without it is refused. Loaders of several processes share it.
--   A room with dead letters is nowhere but here: its record is taken over into this run, if MySQL is not ahead of it.
--   Open replies outlive their room's load: the record with its turn stays until the fill, and they go on meanwhile. Only
--   one whose turn was lost with the record ends first: whether it was asked nobody knows any more.
-- KEYS: 1 record; 2 epoch; 3 persistence lane; 4 mark of the lane's backlog; 5 load token; 6 list (messages, or the rooms set); 7 room card, or the account's order; 8 rooms with dead letters; 9 turns; 10 prefix of message states; 11 server run of the epoch
-- ARGV: 1 'room'|'account'; 2 token; 3 token TTL in ms; 4 room_id, '' for an account; 5 the room's last seq in MySQL, '' when not known yet; 6 epoch in which the lane's mark in MySQL was compared, '' when it was not; 7 account_db_key
-- returns: {0, epoch, token, last event of the record or '', open turn…} go on with this token | {11} loaded meanwhile, or deleted | {8} events of an older record or an older Redis run are not in MySQL yet | {8, turn} they are, but this turn was lost: end it first | {5} say the room's last seq in MySQL | {5, epoch} first compare the lane's mark in MySQL | {6, 'dead'} a room with dead letters is not whole here
-- Entries that somebody else's handler pushed go at once when the lane is empty, else when their event was read or
-- this time is over (the database may be away): the room stays usable, a later event still gets its place.
local FOREIGN_WAIT_MS = 1000
local v = redis.call('HMGET', KEYS[1], 'epoch', 'gone', 'dirty', 'turn', 'len', 'owner', 'format')
refuse_newer(v[7])
local epoch = redis.call('GET', KEYS[2])
if not epoch then
  -- Somebody flushed Redis while it ran: a run of its own, that no record of before belongs to. It is noted as this
  -- server's: else the next process that connects would take it for an older one, and all that was loaded since.
  epoch = int(now_ms())
  redis.call('MSET', KEYS[2], epoch, KEYS[11], string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'))
end

-- The card from the room's record, with the TTL that the record has.
local function write_card()
  local r = redis.call('HMGET', KEYS[1], 'title', 'persona', 'created', 'last_ms', 'count')
  redis.call('SET', KEYS[7], card(ARGV[4], r[1], r[2], r[3], tonumber(r[4]), tonumber(r[5])))
  local ttl = redis.call('PTTL', KEYS[1])
  if ttl > 0 then redis.call('PEXPIRE', KEYS[7], ttl) end
end

-- A reply that nobody ended and whose turn was lost. It gets one again, with the reply's id as its token, to be ended by.
-- Where the record is there, and it is not the reply that runs, it was never asked: it waits again.
local function lost_turn(open)
  local known, running_seq = {}, v[4] and tonumber(string.match(v[4], '^[^|]+|[^|]+|(%d+)|'))
  for _, turn in ipairs(open) do
    local token, reply_id = string.match(turn, '^([^|]+)|([^|]+)|')
    if token == reply_id then return turn end
    known[reply_id or ''] = true
  end
  for _, item in ipairs(redis.call('LRANGE', KEYS[6], 0, -1)) do
    local seq, question_id, persona = string.match(item,
      '"seq":(%d+),.-"parent_message_id":"([^"]+)","is_streaming":true,"metadata":{"ai_persona":(.+)}}$')
    local reply_id = entry_id(item)
    if seq and not known[reply_id] and get_state(KEYS[10] .. reply_id) == 'COMPOSING' then
      local waits = v[5] and (not running_seq or tonumber(seq) > running_seq)
      local turn = table.concat({ (waits and 'again-' or '') .. reply_id, reply_id, seq, question_id, '0', persona }, '|')
      redis.call('RPUSH', KEYS[9], turn)
      if not waits then return turn end
      open[#open + 1] = turn
    end
  end
  return nil
end

if v[2] then return { REPEAT } end
if v[1] == epoch then
  local len = tonumber(v[5])
  if ARGV[1] == 'room' and len < redis.call('LLEN', KEYS[6]) then
    local seen, now = redis.call('HGET', KEYS[1], 'foreign_at'), now_ms()
    if not seen then redis.call('HSET', KEYS[1], 'foreign_at', int(now)) end
    if redis.call('XLEN', KEYS[3]) > 0 and now - (seen or now) < FOREIGN_WAIT_MS then return { WAIT } end
    drop_foreign(KEYS[6])
    redis.call('HDEL', KEYS[1], 'foreign_at')
  end
  if ARGV[1] == 'room' and len == redis.call('LLEN', KEYS[6]) then
    if redis.call('EXISTS', KEYS[7]) == 0 then write_card() end
    return { REPEAT }
  end
  -- An account of the same id that a global database lost may have left its list here: that is nobody's answer.
  if ARGV[1] == 'account' and v[6] == ARGV[7] and len == redis.call('SCARD', KEYS[6])
    and len == redis.call('ZCARD', KEYS[7]) then
    return { REPEAT }
  end
end
if ARGV[4] ~= '' and redis.call('HEXISTS', KEYS[8], ARGV[4]) == 1 then
  local next_seq = redis.call('HGET', KEYS[1], 'next_seq')
  if next_seq and ARGV[5] == '' then return { UNSURE } end
  if next_seq and tonumber(ARGV[5]) < tonumber(next_seq) then
    if tonumber(v[5]) ~= redis.call('LLEN', KEYS[6]) then return { FULL, 'dead' } end
    write_card()
    redis.call('HSET', KEYS[1], 'epoch', epoch)
    pin(KEYS[1], KEYS[6])
    return { REPEAT }
  end
end
local first = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
if first and not v[1] and not v[3] and (redis.call('PTTL', KEYS[6]) == -1 or redis.call('PTTL', KEYS[7]) == -1) then
  -- A pinned list without its record: the record was lost. Which events are its own nobody knows any more: wait for all.
  v[3] = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1][1]
  redis.call('HSET', KEYS[1], 'epoch', NO_GENERATION, 'dirty', v[3])
end
if first and v[3] and id_at_most(first[1], v[3]) then return { WAIT } end
local mark = redis.call('HMGET', KEYS[4], 'epoch', 'id', 'saved')
if mark[1] ~= epoch then
  -- A database that came back older, together with this Redis: what is here would be read from there, and be lost.
  if mark[3] and ARGV[6] ~= epoch then return { UNSURE, epoch } end
  local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
  mark[2] = last and last[1] or NO_EVENT
  redis.call('HSET', KEYS[4], 'epoch', epoch, 'id', mark[2])
end
if first and id_at_most(first[1], mark[2]) then return { WAIT } end
local answer = { OK, epoch, '', '' }
if ARGV[1] == 'room' then
  local open = redis.call('LRANGE', KEYS[9], 0, -1)
  if v[4] then table.insert(open, 1, v[4]) end
  local lost = lost_turn(open)
  if lost then return { WAIT, lost } end
  for _, turn in ipairs(open) do answer[#answer + 1] = turn end
end
if #answer > 4 then
  answer[4] = v[3] or ''
else
  redis.call('DEL', KEYS[1], KEYS[6])
  if ARGV[1] == 'account' then redis.call('DEL', KEYS[7]) end
end
answer[3] = get_text(KEYS[5]) or ARGV[2]
redis.call('SET', KEYS[5], answer[3], 'PX', ARGV[3])
return answer
