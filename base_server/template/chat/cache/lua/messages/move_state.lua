-- purpose: Move one state from where it is allowed to come from, with its log; a missing key is
--   ABSENT.
-- KEYS: state_key
-- ARGV: new_state; allowed_states csv; ttl_ms int; is_saved flag the message is in MySQL
-- returns: {0, state before} moved | {9, state now} refused
-- allow-oom: one state with its log, at most 250 bytes
local text = get_text(state_key)
local state = state_of(text) or 'ABSENT'
if not is_one_of(state, allowed_states) then return { REFUSED, state } end
-- A message of ours, or the delete of a room or message, may not be in MySQL yet: its state stays
-- until then.
local is_unsaved = not is_saved and room_of(text)
local stays = (is_gone(new_state) or is_unsaved) and redis.call('PTTL', state_key) == -1
set_state(state_key, new_state, now_ms(), not stays and ttl_ms or nil, is_saved and '' or nil)
return { OK, state }
