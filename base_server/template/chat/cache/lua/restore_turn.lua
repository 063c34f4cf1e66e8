-- purpose: Redis has lost what it knew of a room (it was flushed, or came back older): the process that asks for one of its
--   replies, or waits to, gives the turn back. The room's load finds it there, and the reply goes on.
--   A whole record of this run knows its turns. Any other may have forgotten this one: only the reply's state says then
--   that somebody ended it. (What MySQL knows the load compares.)
-- KEYS: 1 room record; 2 turns; 3 leases; 4 epoch; 5 reply state; 6 room load token
-- ARGV: 1 turn; 2 turn token; 3 room_id; 4 claim id of who asks, '' of who waits; 5 lease in ms; 6 account_id; 7 account_db_key; 8 shard id
-- returns: 1 it is open again | 0 the reply is over
-- allow-oom: one turn
local v = redis.call('HMGET', KEYS[1], 'len', 'gone', 'epoch', 'turn', 'turn_phase', 'turn_token', 'format')
refuse_newer(v[7])
if v[2] or v[1] and v[3] == redis.call('GET', KEYS[4]) then return 0 end
local state = get_state(KEYS[5])
if state and state ~= 'COMPOSING' then return 0 end
local waiting = find_waiting(KEYS[2], 'token', ARGV[2])
if ARGV[4] == '' then
  if v[6] ~= ARGV[2] and not waiting then
    redis.call('RPUSH', KEYS[2], ARGV[1])
    redis.call('DEL', KEYS[6])
  end
  return 1
end
if v[6] == ARGV[2] then
  if not may_write(v[5], ARGV[4]) then return 0 end
elseif v[4] then
  -- Replies of a room run in the order of their numbers. One from before ours has ended, whatever an older record says:
  -- the load ends it if MySQL does not know how.
  local _, _, other_seq = parts_of(v[4])
  local _, _, seq = parts_of(ARGV[1])
  if tonumber(other_seq or 0) > tonumber(seq) then return 0 end
end
local now = now_ms()
if waiting then redis.call('LREM', KEYS[2], 0, waiting) end
if not v[1] then
  redis.call('HSET', KEYS[1], 'epoch', NO_GENERATION, 'account', ARGV[6], 'owner', ARGV[7], 'shard', ARGV[8])
end
redis.call('HDEL', KEYS[1], 'turn_facts')
redis.call('HSET', KEYS[1], 'turn', ARGV[1], 'turn_token', ARGV[2], 'turn_phase', 'calling ' .. ARGV[4], 'turn_at', int(now))
on_leases('ZADD', KEYS[3], int(now + tonumber(ARGV[5])), ARGV[3])
pin(KEYS[1])
-- A load under way has not seen this turn.
redis.call('DEL', KEYS[6])
return 1
