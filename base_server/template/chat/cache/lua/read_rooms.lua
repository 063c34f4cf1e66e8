-- purpose: One page of an account's rooms, newest activity first, with their states.
--   A room that a state call deleted without knowing its account's name goes from the list here.
-- KEYS: 1 account record; 2 account's rooms; 3 account's order; 4 epoch; 5 prefix of room cards; 6 prefix of room states
-- ARGV: 1 account_db_key; 2 first rank; 3 last rank
-- returns: {0, total, letters of their states, cards…} | {1, 'account'} cold | {10, room ids…} cards to be loaded first | {12} one of the cards is none
if check_account(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]) then return { COLD, 'account' } end
local ids, cards, states, letters, dropped
repeat
  ids, cards, states, letters, dropped = redis.call('ZREVRANGE', KEYS[3], ARGV[2], ARGV[3]), {}, {}, '', false
  for i, room_id in ipairs(ids) do
    cards[i], states[i] = KEYS[5] .. room_id, KEYS[6] .. room_id
  end
  -- A missing state of a listed room: settled longer ago than the state TTL.
  if #ids > 0 then letters = letters_of(states, 'CPRAXD', function() return 'A' end) end
  for place in string.gmatch(letters, '()[XD]') do
    redis.call('HINCRBY', KEYS[1], 'len', -redis.call('SREM', KEYS[2], ids[place]))
    redis.call('ZREM', KEYS[3], ids[place])
    dropped = true
  end
until not dropped
local answer, missing = { OK, redis.call('ZCARD', KEYS[3]), letters }, { PARTIAL }
if #ids == 0 then return answer end
for i, room_card in ipairs(redis.call('MGET', unpack(cards))) do
  if not room_card then
    missing[#missing + 1] = ids[i]
    redis.call('DEL', cards[i]) -- a key of another type counts as missing
  elseif not string.find(room_card, '^{"room_id":"') or string.byte(room_card, -1) ~= 125 then
    return { DAMAGED }
  else
    answer[3 + i] = room_card
  end
end
return #missing > 1 and missing or answer
