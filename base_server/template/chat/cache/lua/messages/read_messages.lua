-- purpose: Messages of a room's window oldest first, without what was deleted, with the states:
--   the newest `count` that can be seen at or below a seq and behind `skip` newer ones that can.
--   Holes apart, no other message is read than these.
-- KEYS: room_record; messages; generation; message_states prefix of message states
-- ARGV: account_db_key; highest_seq int '' for the newest; count int; skip int
-- returns: {0, first_seq, low, missing, below '1'|'0'|'?', codes of their states, messages…}
--   (low: the lowest seq looked at; missing: of the `skip`, those that the window does not have;
--   below: is a visible message under low) | {1, 'room'} not loaded | {2} not found | {12} one of
--   the messages is damaged
local refused, room = check_room(room_record, messages, generation, account_db_key,
  { 'floor', 'next_seq', 'saved_seq', 'older' })
if refused then return { refused, 'room' } end
local first_seq, saved_seq = tonumber(room.floor), tonumber(room.saved_seq)
local last_seq = tonumber(room.next_seq) - 1

-- Downwards in slices as long as what is still needed: only tombstones make another slice
-- necessary.
local found, found_seqs = {}, {} -- newest first
local low = math.min(last_seq, highest_seq or last_seq) + 1
while low > first_seq and #found < count do
  local first = math.max(low - skip - count + #found, first_seq)
  local items = redis.call('LRANGE', messages, first - first_seq, low - 1 - first_seq)
  for i = #items, 1, -1 do
    local item = items[i]
    if not is_tombstone(item) then
      if skip > 0 then
        skip = skip - 1
      else
        found[#found + 1], found_seqs[#found + 1] = item, first + i - 1
      end
    end
  end
  low = first
end
local below = room.older
for index = low - first_seq - 1, 0, -1 do
  if not is_tombstone(redis.call('LINDEX', messages, index)) then
    below = '1'
    break
  end
end

local answer, seqs, states = { OK, first_seq, low, skip, below, '' }, {}, {}
for i = #found, 1, -1 do
  local item = found[i]
  local id = id_of(item)
  -- Somebody wrote to the list: the caller discards the room and loads it again.
  if id == '' or string.sub(item, -2) ~= '}}' then return { DAMAGED } end
  states[#states + 1], seqs[#seqs + 1] = message_states .. id, found_seqs[i]
  answer[#answer + 1] = item
end
answer[6] = state_codes_of(states, 'CPRSXD', function(index)
  -- A missing state up to saved_seq: saved longer ago than the state TTL.
  return seqs[index] <= saved_seq and 'S' or 'P'
end)
return answer
