-- purpose: Give back a slot that was taken, or kept for a place among the calls, and not used:
--   its process stops before it has called the provider.
-- KEYS: room_record; leases; signals
-- ARGV: slot_token; room_id; claim_id; ready_lease_ms int
-- returns: 1 another process may take it | 0 it was not this claim's
-- allow-oom: nothing: it replaces values
local room = read_fields(room_record, { 'turn_token', 'turn_phase', 'turn', 'format' })
refuse_newer(room.format)
if room.turn_token ~= slot_token or not may_write(room.turn_phase, claim_id) then return 0 end
redis.call('HSET', room_record, 'turn_phase', 'ready')
on_leases('ZADD', leases, int(now_ms() + ready_lease_ms), room_id)
notify(signals, 'ready', reply_of(room.turn))
return 1
