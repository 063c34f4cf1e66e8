-- purpose: Take keys of another type than ours out of the way, so that they count as missing. In
--   the place of a lost record stands a note that its load waits until the stream's present
--   backlog is in MySQL. Without a list the record is not whole: what the list alone knew (the
--   waiters) is put right when the room is loaded.
-- KEYS: event_stream; room_or_account_record; lists... that belong to it
-- ARGV: record_type; list_types... of each
-- returns: how many keys were dropped
local record = room_or_account_record
local format = redis.pcall('HGET', record, 'format')
if type(format) == 'string' then refuse_newer(format) end
local dropped = 0

local function drop_unless(key, kind)
  local found = redis.call('TYPE', key).ok
  if found == 'none' or found == kind then return false end
  redis.call('DEL', key)
  dropped = dropped + 1
  return true
end

if drop_unless(record, record_type) then
  local last_event = last_event_of(event_stream)
  if last_event then redis.call('HSET', record, 'epoch', NO_GENERATION, 'dirty', last_event) end
end
for i, key in ipairs(lists) do
  if drop_unless(key, list_types[i]) and list_types[i] == 'list'
    and redis.call('HEXISTS', record, 'len') == 1 then
    redis.call('HSET', record, 'epoch', STALE_GENERATION)
  end
end
return dropped
