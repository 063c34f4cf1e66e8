-- purpose: Forget the lease of a room whose record has no open slot (it was lost with an older
--   Redis, or is no record).
-- KEYS: room_record; leases
-- ARGV: room_id
-- returns: how many leases were dropped
if redis.pcall('HEXISTS', room_record, 'turn_token') == 1 then return 0 end
return on_leases('ZREM', leases, room_id)
