-- purpose: Give a message that came through the queue without a seq its place in a room that is loaded; for one that is
--   not, leave a note that makes its load wait until this event is in MySQL (the procedure then assigns the seq).
-- KEYS: 1 room record; 2 messages; 3 room card; 4 epoch; 5 room load token
-- ARGV: 1 room_id; 2 message_id; 3 event id; 4 timestamp, ISO; 5 tail; 6 account_db_key; 7 shard id
-- returns: {0, seq} its place | {1} not loaded: the database assigns | {2} the room is deleted | {9} it is another account's or another shard's
-- allow-oom: the list entry of one message whose event is in Redis already
local v = redis.call('HMGET', KEYS[1], 'epoch', 'len', 'next_seq', 'floor', 'count', 'title', 'persona', 'created',
  'last_ms', 'gone', 'owner', 'shard', 'format')
refuse_newer(v[13])
if v[11] and v[11] ~= ARGV[6] or v[12] and v[12] ~= ARGV[7] then return { REFUSED } end
if v[10] then return { NOT_FOUND } end
local loaded = v[3] and v[1] == redis.call('GET', KEYS[4])
if loaded and redis.call('LLEN', KEYS[2]) > tonumber(v[2]) then drop_foreign(KEYS[2]) end
if not loaded or tonumber(v[2]) ~= redis.call('LLEN', KEYS[2]) then
  redis.call('HSET', KEYS[1], 'dirty', ARGV[3])
  if not v[3] then redis.call('HSET', KEYS[1], 'epoch', NO_GENERATION) end
  redis.call('PERSIST', KEYS[1])
  -- Without its card the list of rooms loads the room again: with this message.
  redis.call('DEL', KEYS[5], KEYS[3])
  return { COLD }
end
redis.call('HDEL', KEYS[1], 'foreign_at')
local offset = find_entry(KEYS[2], ARGV[2])
if offset then return { OK, tonumber(v[4]) + offset } end
local seq, now = tonumber(v[3]), math.max(now_ms(), tonumber(v[9]) + 1)
redis.call('RPUSH', KEYS[2], entry(ARGV[2], ARGV[1], seq, ARGV[4], ARGV[5]))
redis.call('HSET', KEYS[1], 'len', int(v[2] + 1), 'next_seq', int(seq + 1), 'count', int(v[5] + 1), 'last_ms', int(now),
  'dirty', ARGV[3])
redis.call('SET', KEYS[3], card(ARGV[1], v[6], v[7], v[8], now, v[5] + 1))
pin(KEYS[1], KEYS[2])
redis.call('DEL', KEYS[5])
return { OK, seq }
