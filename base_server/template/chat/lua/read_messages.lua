-- purpose: A range of a room's window, oldest first, without what was deleted, with the states.
--   page: the visible entries of seq low..high. fill: the newest `count` visible entries at or below high.
-- KEYS: 1 room record; 2 messages; 3 epoch; 4 prefix of message states
-- ARGV: 1 account_db_key; 2 'page'|'fill'; 3 highest seq, or '' for the newest; 4 count; 5 page number (page mode, from 1)
-- returns: {0, floor, low, high, saved_seq, below '1'|'0'|'?', entry, state, …} (low, high: the seqs looked at; below: is a visible message under it) | {1, 'room'} cold | {2} not found
local refused = check_room(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if refused then return { refused, 'room' } end
local v = redis.call('HMGET', KEYS[1], 'floor', 'next_seq', 'saved_seq', 'older')
local floor, top, count = tonumber(v[1]), tonumber(v[2]) - 1, tonumber(ARGV[4])
local high = ARGV[3] == '' and top or math.min(top, tonumber(ARGV[3]))
local low = floor
local found = {}
if ARGV[2] == 'page' then
  high = high - (tonumber(ARGV[5]) - 1) * count
  low = math.max(high - count + 1, 1)
end
if high >= floor then
  local items = redis.call('LRANGE', KEYS[2], ARGV[2] == 'page' and math.max(low, floor) - floor or 0, high - floor)
  for i = #items, 1, -1 do
    if ARGV[2] == 'fill' and #found >= count then
      low = high - (#items - i) + 1
      break
    end
    if not is_tombstone(items[i]) then found[#found + 1] = items[i] end
  end
end
local below = v[4]
for offset = math.min(low, top + 1) - floor - 1, 0, -1 do
  if not is_tombstone(redis.call('LINDEX', KEYS[2], offset)) then
    below = '1'
    break
  end
end
local answer = { OK, floor, low, high, tonumber(v[3]), below }
for i = #found, 1, -1 do
  answer[#answer + 1] = found[i]
  answer[#answer + 1] = get_state((KEYS[4] .. entry_id(found[i]))) or ''
end
return answer
