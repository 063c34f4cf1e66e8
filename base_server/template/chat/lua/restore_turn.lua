-- purpose: Redis has lost the record of a room (it was flushed, or came back older): the process that asks for one of its
--   replies, or waits to, gives the turn back. The room's load finds it there, and the reply goes on.
-- KEYS: 1 room record; 2 turns; 3 leases
-- ARGV: 1 turn; 2 turn token; 3 room_id; 4 claim id of who asks, '' of who waits; 5 lease in ms; 6 account_id; 7 account_db_key; 8 shard id
-- returns: 1 it is open again | 0 the record is there, or has seen another end: the reply is over
-- allow-oom: one turn
local v = redis.call('HMGET', KEYS[1], 'len', 'gone', 'dirty', 'turn', 'turn_phase')
if v[1] or v[2] then return 0 end
if ARGV[4] == '' then
  if v[4] ~= ARGV[1] and not find_waiting(KEYS[2], 'token', ARGV[2]) then redis.call('RPUSH', KEYS[2], ARGV[1]) end
  return 1
end
if v[3] or v[4] and (v[4] ~= ARGV[1] or v[5] ~= 'ready' and v[5] ~= 'calling ' .. ARGV[4]) then return 0 end
local now = now_ms()
redis.call('LREM', KEYS[2], 0, ARGV[1])
redis.call('HSET', KEYS[1], 'epoch', '-1', 'turn', ARGV[1], 'turn_token', ARGV[2], 'turn_phase', 'calling ' .. ARGV[4],
  'turn_at', int(now), 'account', ARGV[6], 'owner', ARGV[7], 'shard', ARGV[8])
redis.call('ZADD', KEYS[3], int(now + tonumber(ARGV[5])), ARGV[3])
return 1
