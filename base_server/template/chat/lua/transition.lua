-- purpose: Move one state from where it is allowed to come from, with its log; a missing key is ABSENT.
-- KEYS: 1 state
-- ARGV: 1 new state; 2 allowed present states, comma separated; 3 TTL in ms
-- returns: {0, state before} moved | {9, state now} refused
-- allow-oom: one state with its log, at most 250 bytes
local state = get_state(KEYS[1]) or 'ABSENT'
if not string.find(',' .. ARGV[2] .. ',', ',' .. state .. ',', 1, true) then return { REFUSED, state } end
-- The delete of a room or message of ours may not be in MySQL yet: its state stays until then.
local stays = is_gone(ARGV[1]) and redis.call('PTTL', KEYS[1]) == -1
set_state(KEYS[1], ARGV[1], now_ms(), not stays and ARGV[3] or nil)
return { OK, state }
