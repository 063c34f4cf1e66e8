-- purpose: End a reply from outside its process, running or waiting, with what its stream holds: for its owner ('stopped'),
--   for the sweeper and for a load ('interrupted'). Called again it answers the reply as it stands. Without an owner it
--   works on a record of an older Redis run, or without one: the load waits for it.
-- KEYS: 1 room record; 2 messages; 3 persistence lane; 4 news; 5 leases; 6 turns; 7 account's open replies; 8 reply state; 9 reply stream; 10 epoch
-- ARGV: 1 account_db_key, '' for no owner; 2 room_id; 3 reply id; 4 reason; 5 ready lease in ms; 6 stream TTL in ms; 7 '1' only when the lease has run out; 8 beginning of an event's payload
-- returns: {0, entry, state, backlog, token that is ready or ''} | {11, entry, state} ended before | {1, 'room'} cold | {2} not found | {5} not in the window, ask MySQL | {7} no such message, or deleted | {8} the lease still runs
-- allow-oom: the final entry and the event of one running reply, with the text that its stream holds
local k = { rec = KEYS[1], messages = KEYS[2], lane = KEYS[3], news = KEYS[4], leases = KEYS[5], turns = KEYS[6],
  open = KEYS[7], state = KEYS[8], stream = KEYS[9] }
local refused = ARGV[1] ~= '' and check_room(k.rec, k.messages, KEYS[10], ARGV[1])
if refused then return { refused, 'room' } end
local now = now_ms()
local v = redis.call('HMGET', k.rec, 'turn', 'floor', 'format')
refuse_newer(v[3])
local is_turns = v[1] and string.match(v[1], '^[^|]+|([^|]+)|') == ARGV[3]
local turn = is_turns and v[1] or find_waiting(k.turns, 'reply', ARGV[3])
if not turn then
  local offset, item = find_entry(k.messages, ARGV[3])
  if not offset then return { v[2] == '1' and LOST or UNSURE } end
  if is_tombstone(item) then return { LOST } end
  return { REPEAT, item, get_state(k.state) or '' }
end
if ARGV[7] == '1' then
  local lease = on_leases('ZSCORE', k.leases, ARGV[2])
  if lease and tonumber(lease) > now then return { WAIT } end
end
local final, ready = put_early_end(k, ARGV[2], turn, ARGV[4], ARGV[8], ARGV[5], ARGV[6], now)
return { OK, final, get_state(k.state), redis.call('XLEN', k.lane), ready }
