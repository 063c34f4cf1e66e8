-- purpose: One page of an account's rooms, newest activity first, with their states. A room that
--   a state call deleted without knowing its account's name goes from the list here.
-- KEYS: account_record; rooms; order; generation; room_jsons prefix of the rooms' JSON;
--   room_states prefix of room states
-- ARGV: account_db_key; first_rank; last_rank
-- returns: {0, total, codes of their states, rooms…} | {1, 'account'} not loaded | {10, room
--   ids…} rooms to be loaded first | {12} one of them is damaged
if check_account(account_record, rooms, order, generation, account_db_key, {}) then
  return { NOT_LOADED, 'account' }
end
-- Again when the page has become shorter by what was deleted.
local ids, json_keys, state_keys, codes, dropped
repeat
  ids, json_keys, state_keys = redis.call('ZREVRANGE', order, first_rank, last_rank), {}, {}
  codes, dropped = '', false
  for i, room_id in ipairs(ids) do
    json_keys[i], state_keys[i] = room_jsons .. room_id, room_states .. room_id
  end
  -- A missing state of a listed room: saved longer ago than the state TTL.
  if #ids > 0 then codes = state_codes_of(state_keys, 'CPRAXD', function() return 'A' end) end
  for index in string.gmatch(codes, '()[XD]') do
    unlist_room(account_record, rooms, order, ids[index])
    dropped = true
  end
until not dropped
local answer, missing = { OK, redis.call('ZCARD', order), codes }, { PARTIAL }
if #ids == 0 then return answer end
for i, room in ipairs(redis.call('MGET', unpack(json_keys))) do
  if not room then
    missing[#missing + 1] = ids[i]
    redis.call('DEL', json_keys[i]) -- a key of another type counts as missing
  elseif not string.find(room, '^{"room_id":"') or string.byte(room, -1) ~= 125 then
    return { DAMAGED }
  else
    answer[3 + i] = room
  end
end
return #missing > 1 and missing or answer
