-- purpose: End a reply, whoever asks first: its text takes its place in the list, its persistence event is queued, the
--   turn goes to the next one waiting. Works on a record of an older Redis run, or without one: the load waits for it.
--   Who does not run the reply ends it with what was streamed, all of it.
-- KEYS: 1 room record; 2 messages; 3 persistence lane; 4 reply state; 5 leases; 6 turns; 7 reply stream; 8 account's open replies
-- ARGV: 1 turn token; 2 room_id; 3 reply id; 4 reply seq; 5 final tail; 6 event payload; 7 reason; 8 ready lease in ms; 9 stream TTL in ms; 10 '1' only when the lease has run out; 11 text length in bytes; 12 last entry of the reply stream that the text was read from, '' when who runs the reply ends it
-- returns: {0, entry, backlog, token that is ready or ''} | {7, entry or ''} ended before, by whom came first | {8} the lease still runs | {5} more was streamed, read it again
local rec, messages, room_id = KEYS[1], KEYS[2], ARGV[2]
local v = redis.call('HMGET', rec, 'turn_token', 'floor', 'epoch')
local now = now_ms()
local offset = v[2] and tonumber(ARGV[4]) - tonumber(v[2]) or -1
local current = offset >= 0 and redis.call('LINDEX', messages, offset) or ''
if not current or current == '' or entry_id(current) ~= ARGV[3] or is_tombstone(current) then current = '' end
local mine = v[1] == ARGV[1]
local waiting
if not mine then
  for _, item in ipairs(redis.call('LRANGE', KEYS[6], 0, -1)) do
    if string.match(item, '^([^|]+)|') == ARGV[1] then waiting = item end
  end
  if not waiting then return { LOST, current } end
end
local last = redis.call('XREVRANGE', KEYS[7], '+', '-', 'COUNT', 1)[1]
if ARGV[12] ~= '' and (last and last[1] or '0-0') ~= ARGV[12] then return { UNSURE } end
if ARGV[10] == '1' then
  local lease = redis.call('ZSCORE', KEYS[5], room_id)
  if lease and tonumber(lease) > now then return { WAIT } end
end

local at = current ~= '' and entry_at(current) or iso(now)
local event = redis.call('XADD', KEYS[3], '*', 'id', ARGV[3], 'type', 'CHAT_MESSAGE_SAVE', 'payload', ARGV[6],
  'priority', '2', 'key', room_id, 'at', int(now), 'seq', ARGV[4], 'time', at)
local final = entry(ARGV[3], room_id, tonumber(ARGV[4]), at, ARGV[5])
if current ~= '' then redis.call('LSET', messages, offset, final) end
redis.call('HSET', rec, 'dirty', event)
if not v[3] then redis.call('HSET', rec, 'epoch', '-1') end
redis.pcall('ZREM', KEYS[8], ARGV[3])
set_state(KEYS[4], 'PENDING', now)
local ready = ''
if mine then
  ready = next_turn(rec, KEYS[6], KEYS[5], room_id, now + tonumber(ARGV[8]))
else
  redis.call('LREM', KEYS[6], 1, waiting)
end
if last then
  -- Further than the text when an older Redis has lost some of it.
  local length = math.max(tonumber(ARGV[11]), tonumber(string.match(last[1], '^%d+')))
  redis.call('XADD', KEYS[7], int(length + 1) .. '-0', 'end', ARGV[7])
  redis.call('PEXPIRE', KEYS[7], ARGV[9])
end
return { OK, final, redis.call('XLEN', KEYS[3]), ready }
