-- purpose: Put a room that was read from MySQL into Redis: record, window, card; whole or not at all.
-- KEYS: 1 room record; 2 messages; 3 room card; 4 epoch; 5 room load token; 6 room state
-- ARGV: 1 token; 2 epoch at the load's start; 3 TTL of the window in ms; 4 room_id; 5 last activity in ms; 6 message count; 7 title as JSON; 8 persona as JSON; 9 created at, ISO; 10 TTL of the card in ms; 11 number of record fields and values; 12.. record fields and values, then list entries
-- returns: {0} filled | {7} a write or another load came first | {2} the room is deleted
if redis.call('GET', KEYS[5]) ~= ARGV[1] or redis.call('GET', KEYS[4]) ~= ARGV[2] then return { LOST } end
if redis.call('EXISTS', KEYS[1]) == 1 then return { LOST } end
local state = get_state(KEYS[6])
if state == 'DELETING' or state == 'DELETED' then return { NOT_FOUND } end
local last_field = 11 + tonumber(ARGV[11])
redis.call('DEL', KEYS[2], KEYS[5])
for i = 12, last_field, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'title', ARGV[7], 'persona', ARGV[8], 'created', ARGV[9],
  'last_ms', ARGV[5], 'count', ARGV[6], 'len', int(#ARGV - last_field))
for i = last_field + 1, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
redis.call('SET', KEYS[3], card(ARGV[4], ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[5]), tonumber(ARGV[6])))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[10])
return { OK }
