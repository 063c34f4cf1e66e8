-- purpose: Redis has lost what it knew of a room (it was flushed, or came back older): the
--   process that runs one of its replies, or waits to, gives the slot back. The room's load finds
--   it there, and the reply goes on. A whole record of this run knows its slots. Any other may
--   have forgotten this one: only the reply's state says then that somebody ended it. (What MySQL
--   knows the load compares.)
-- KEYS: room_record; waiters; leases; generation; reply_state; room_load
-- ARGV: slot; slot_token; room_id; claim_id of the process that calls, '' of one that waits;
--   lease_ms int; account_id; account_db_key; shard_id
-- returns: 1 it is open again | 0 the reply is over
-- allow-oom: one slot
local room = read_fields(room_record,
  { 'len', 'gone', 'epoch', 'turn', 'turn_phase', 'turn_token', 'format' })
refuse_newer(room.format)
if room.gone or room.len and room.epoch == redis.call('GET', generation) then return 0 end
local state = get_state(reply_state)
if state and state ~= 'COMPOSING' then return 0 end
local waiter = find_waiter(waiters, 'token', slot_token)
if claim_id == '' then
  if room.turn_token ~= slot_token and not waiter then
    redis.call('RPUSH', waiters, slot)
    redis.call('DEL', room_load)
  end
  return 1
end
if room.turn_token == slot_token then
  if not may_write(room.turn_phase, claim_id) then return 0 end
elseif room.turn then
  -- Replies of a room run in the order of their numbers. One from before ours has ended, whatever
  -- an older record says: the load ends it if MySQL does not know how.
  local _, _, other_seq = parts_of(room.turn)
  local _, _, seq = parts_of(slot)
  if tonumber(other_seq or 0) > tonumber(seq) then return 0 end
end
local now = now_ms()
if waiter then redis.call('LREM', waiters, 0, waiter) end
if not room.len then
  redis.call('HSET', room_record, 'epoch', NO_GENERATION, 'account', account_id,
    'owner', account_db_key, 'shard', shard_id)
end
redis.call('HDEL', room_record, 'turn_facts')
redis.call('HSET', room_record, 'turn', slot, 'turn_token', slot_token,
  'turn_phase', 'calling ' .. claim_id, 'turn_at', int(now))
on_leases('ZADD', leases, int(now + lease_ms), room_id)
pin(room_record)
-- A load under way has not seen this slot.
redis.call('DEL', room_load)
return 1
