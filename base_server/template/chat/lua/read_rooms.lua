-- purpose: One page of an account's rooms, newest activity first, with their states.
-- KEYS: 1 account record; 2 account's rooms; 3 account's order; 4 epoch; 5 prefix of room cards; 6 prefix of room states
-- ARGV: 1 account_db_key; 2 first rank; 3 last rank
-- returns: {0, total, card, state, card, state, …} (state '' when absent) | {1, 'account'} cold | {10, room ids…} cards to be loaded first
if check_account(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]) then return { COLD, 'account' } end
local answer = { OK, redis.call('ZCARD', KEYS[3]) }
local missing = { PARTIAL }
for _, room_id in ipairs(redis.call('ZREVRANGE', KEYS[3], ARGV[2], ARGV[3])) do
  local room_card = get_text(KEYS[5] .. room_id)
  if room_card then
    answer[#answer + 1] = room_card
    answer[#answer + 1] = get_state(KEYS[6] .. room_id) or ''
  else
    missing[#missing + 1] = room_id
  end
end
if #missing > 1 then return missing end
return answer
