-- purpose: Move one state from where it is allowed to come from, with its log; a missing key is ABSENT.
-- KEYS: 1 state
-- ARGV: 1 new state; 2 allowed present states, comma separated; 3 TTL in ms; 4 '1' when the message is in MySQL, else ''
-- returns: {0, state before} moved | {9, state now} refused
-- allow-oom: one state with its log, at most 250 bytes
local state = get_state(KEYS[1]) or 'ABSENT'
if not string.find(',' .. ARGV[2] .. ',', ',' .. state .. ',', 1, true) then return { REFUSED, state } end
-- A message of ours, or the delete of a room or message, may not be in MySQL yet: its state stays until then.
local is_unsaved = ARGV[4] == '' and room_of(get_text(KEYS[1]))
local stays = (is_gone(ARGV[1]) or is_unsaved) and redis.call('PTTL', KEYS[1]) == -1
set_state(KEYS[1], ARGV[1], now_ms(), not stays and ARGV[3] or nil, ARGV[4] ~= '' and '' or nil)
return { OK, state }
