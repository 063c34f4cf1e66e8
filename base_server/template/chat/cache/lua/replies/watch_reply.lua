-- purpose: A message by its id for a caller that wants to follow it; while it runs in another
--   process, have that one notify: of each piece of text, or only of its end.
-- KEYS: room_record; messages; generation; message_state; signals
-- ARGV: account_db_key; message_id; watch 'text'|'end' what to be notified of, '' nothing
-- returns: {0, message, state} | {1, 'room'} not loaded | {2} not found | {5} not in the window,
--   ask MySQL | {7} no such message, or deleted
local watched_by = 'w:' .. message_id
local refused, room = check_room(room_record, messages, generation, account_db_key,
  { 'floor', watched_by })
if refused then return { refused, 'room' } end
local index, item = find_message(messages, message_id)
if not index then return { room.floor == '1' and SUPERSEDED or NEEDS_DATABASE } end
if is_tombstone(item) then return { SUPERSEDED } end
if watch ~= '' and is_running(item) and room[watched_by] ~= 'text' then
  -- A hint: on a Redis that takes no writes the reader looks again a little later.
  redis.pcall('HSET', room_record, 'w:' .. message_id, watch)
  if watch == 'text' then notify(signals, 'watched', message_id) end
end
return { OK, item, get_state(message_state) or '' }
