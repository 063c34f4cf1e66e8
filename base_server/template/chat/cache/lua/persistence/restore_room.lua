-- purpose: Append events of a room again that a database lost, made from what Redis has of the
--   room: it is pinned until they are written. Where the database does not know the room, the
--   account's list is read again after it.
-- KEYS: room_record; messages; room_json; event_stream; account_record; rooms; order
-- ARGV: note_ttl_ms int of a note in the place of an account record;
--   list_changes flag the account's list changes;
--   words... of each event: how many, its fields and values
-- returns: id of the first event that was appended, '' for none
refuse_newer(redis.call('HGET', room_record, 'format'))
refuse_newer(redis.call('HGET', account_record, 'format'))
local first, newest, i, now = nil, nil, 1, int(now_ms())
while i <= #words do
  local event, last = {}, i + tonumber(words[i])
  for word = i + 1, last, 2 do event[words[word]] = words[word + 1] end
  event.at = now
  newest = append_event(event_stream, event)
  first, i = first or newest, last + 1
end
if not newest then return '' end
redis.call('HSET', room_record, 'dirty', newest)
pin(room_record, messages, room_json)
if list_changes then
  if redis.call('HEXISTS', account_record, 'len') == 1 then
    redis.call('HSET', account_record, 'epoch', STALE_GENERATION, 'dirty', newest)
    pin(account_record, rooms, order)
  else
    redis.call('HSET', account_record, 'epoch', NO_GENERATION, 'dirty', newest)
    redis.call('PEXPIRE', account_record, note_ttl_ms)
  end
end
return first
