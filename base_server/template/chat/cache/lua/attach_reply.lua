-- purpose: A message by its id for somebody who wants to follow it; while it runs in another process, have that one
--   tell: of each piece of text, or only of its end.
-- KEYS: 1 room record; 2 messages; 3 epoch; 4 message state; 5 news
-- ARGV: 1 account_db_key; 2 message_id; 3 'text'|'end' what to be told of, '' nothing
-- returns: {0, entry, state} | {1, 'room'} cold | {2} not found | {5} not in the window, ask MySQL | {7} no such message, or deleted
local refused = check_room(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if refused then return { refused, 'room' } end
local offset, item = find_entry(KEYS[2], ARGV[2])
if not offset then return { redis.call('HGET', KEYS[1], 'floor') == '1' and LOST or UNSURE } end
if is_tombstone(item) then return { LOST } end
if ARGV[3] ~= '' and is_running(item) and redis.call('HGET', KEYS[1], 'w:' .. ARGV[2]) ~= 'text' then
  -- A hint: on a Redis that takes no writes the reader looks again a little later.
  redis.pcall('HSET', KEYS[1], 'w:' .. ARGV[2], ARGV[3])
  if ARGV[3] == 'text' then tell(KEYS[5], 'watched', ARGV[2]) end
end
return { OK, item, get_state(KEYS[4]) or '' }
