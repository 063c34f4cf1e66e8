-- purpose: Forget the lease of a room whose record has no open turn (it was lost with an older Redis, or is no record).
-- KEYS: 1 room record; 2 leases
-- ARGV: 1 room_id
-- returns: how many leases were dropped
if redis.pcall('HEXISTS', KEYS[1], 'turn_token') == 1 then return 0 end
return on_leases('ZREM', KEYS[2], ARGV[1])
