-- purpose: End a reply whose process knows its text, unless somebody ended it before: the text takes its place in the
--   list, its persistence event is queued, the turn goes to the next one waiting, the stream gets what it lacks.
--   Works on a record of an older Redis run, or without one: the load waits for it.
-- KEYS: 1 room record; 2 messages; 3 persistence lane; 4 news; 5 leases; 6 turns; 7 account's open replies; 8 reply state; 9 reply stream
-- ARGV: 1 turn token; 2 room_id; 3 reply id; 4 reply seq; 5 final tail; 6 beginning of an event's payload; 7 reason; 8 ready lease in ms; 9 stream TTL in ms; 10 byte at which the text begins that is not in the stream; 11 that text; 12 claim id
-- returns: {0, entry, backlog, token that is ready or ''} | {7, entry or ''} ended before, by whom came first | {8} another process asks
-- allow-oom: the final entry and the event of one running reply, its text at most llmConfig.max_reply_chars
local k = { rec = KEYS[1], messages = KEYS[2], lane = KEYS[3], news = KEYS[4], leases = KEYS[5], turns = KEYS[6],
  open = KEYS[7], state = KEYS[8], stream = KEYS[9] }
local v = redis.call('HMGET', k.rec, 'turn_token', 'turn', 'floor', 'turn_phase', 'format')
refuse_newer(v[5])
-- A process that waited too long, and never took the slot, does not end what another has begun.
if v[1] == ARGV[1] and not may_write(v[4], ARGV[12]) then return { WAIT } end
local turn = v[1] == ARGV[1] and v[2] or find_waiting(k.turns, 'token', ARGV[1])
if not turn then
  local current = find_placed(k.messages, v[3], ARGV[4], ARGV[3])
  return { LOST, current and not is_tombstone(current) and current or '' }
end
drop_other_types(k)
-- Readers find the end in the list: a stream that was not begun, or has lost a part, need not be whole.
local have = stream_length(k.stream)
if have > 0 and have >= tonumber(ARGV[10]) then append_text(k.stream, tonumber(ARGV[10]), ARGV[11]) end
local final, ready, watched = put_end(k, ARGV[2], turn, ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], now_ms())
if watched then tell(k.news, 'ended', ARGV[3]) end
return { OK, final, redis.call('XLEN', k.lane), ready }
