-- purpose: A batch was read: messages and rooms that are PENDING become PROCESSING; anything else stays as it is.
-- KEYS: 1.. message and room states
-- ARGV: none
-- returns: how many changed
local now, changed = now_ms(), 0
for i = 1, #KEYS do
  local state = get_state(KEYS[i])
  if state == 'PENDING' then
    set_state(KEYS[i], 'PROCESSING', now)
    changed = changed + 1
  end
end
return changed
