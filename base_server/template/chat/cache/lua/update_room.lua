-- purpose: Change a room's title: record, card and persistence event, guarded by a version that only grows. It counts half
--   seconds, so that a title that a lost Redis accepted, and that comes to MySQL late, does not win over a later one.
-- KEYS: 1 room record; 2 messages; 3 room card; 4 epoch; 5 persistence lane; 6 room load token; 7 rooms with dead letters; 8 note that the operation was done
-- ARGV: 1 account_db_key; 2 room_id; 3 title as JSON; 4 event payload; 5 operation id; 6 dead letters limit; 7 TTL of the note in ms; 8 backlog limit
-- returns: {0, version, backlog} changed (also when this operation was done before) | {1, 'room'} cold | {2} not found | {6, 'dead' | 'backlog'} full
-- MySQL keeps 31 bits.
local EPOCH_2026_MS = 1767225600000
local refused = check_room(KEYS[1], KEYS[2], KEYS[4], ARGV[1])
if refused then return { refused, 'room' } end
local v = redis.call('HMGET', KEYS[1], 'version', 'persona', 'created', 'last_ms', 'count')
if redis.call('EXISTS', KEYS[8]) == 1 then return { OK, tonumber(v[1]), 0 } end
if tonumber(redis.call('HGET', KEYS[7], ARGV[2]) or 0) >= tonumber(ARGV[6]) then return { FULL, 'dead' } end
if redis.call('XLEN', KEYS[5]) >= tonumber(ARGV[8]) then return { FULL, 'backlog' } end
local now = now_ms()
local version = math.max(tonumber(v[1]) + 1, math.floor((now - EPOCH_2026_MS) / 500))
local event = redis.call('XADD', KEYS[5], '*', 'id', ARGV[5], 'type', 'CHAT_ROOM_UPDATE', 'payload', ARGV[4],
  'priority', '2', 'key', ARGV[2], 'at', int(now), 'version', int(version))
redis.call('HSET', KEYS[1], 'title', ARGV[3], 'version', int(version), 'dirty', event)
redis.call('SET', KEYS[8], '1', 'PX', ARGV[7])
redis.call('SET', KEYS[3], card(ARGV[2], ARGV[3], v[2], v[3], tonumber(v[4]), tonumber(v[5])))
pin(KEYS[1], KEYS[2])
redis.call('DEL', KEYS[6])
return { OK, version, redis.call('XLEN', KEYS[5]) }
