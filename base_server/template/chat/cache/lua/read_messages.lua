-- purpose: Messages of a room's window oldest first, without what was deleted, with the states: the newest `count` that can
--   be seen at or below a seq and behind `skip` newer ones that can. Holes apart, no other entry is read than these.
-- KEYS: 1 room record; 2 messages; 3 epoch; 4 prefix of message states
-- ARGV: 1 account_db_key; 2 highest seq, or '' for the newest; 3 count; 4 skip
-- returns: {0, floor, low, missing, below '1'|'0'|'?', letters of their states, entries…} (low: the lowest seq looked at; missing: of the `skip`, those that the window does not have; below: is a visible message under low) | {1, 'room'} cold | {2} not found | {12} one of the entries is none
local refused = check_room(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if refused then return { refused, 'room' } end
local v = redis.call('HMGET', KEYS[1], 'floor', 'next_seq', 'saved_seq', 'older')
local floor, top, saved = tonumber(v[1]), tonumber(v[2]) - 1, tonumber(v[3])
local high = ARGV[2] == '' and top or math.min(top, tonumber(ARGV[2]))
local count, skip = tonumber(ARGV[3]), tonumber(ARGV[4])

local found, found_seqs = {}, {} -- newest first
local low = high + 1
while low > floor and #found < count do
  local first = math.max(low - skip - count + #found, floor)
  local items = redis.call('LRANGE', KEYS[2], first - floor, low - 1 - floor)
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
local below = v[4]
for offset = low - floor - 1, 0, -1 do
  if not is_tombstone(redis.call('LINDEX', KEYS[2], offset)) then
    below = '1'
    break
  end
end

local answer, seqs, keys = { OK, floor, low, skip, below, '' }, {}, {}
for i = #found, 1, -1 do
  local item = found[i]
  local id = entry_id(item)
  if id == '' or string.sub(item, -2) ~= '}}' then return { DAMAGED } end
  keys[#keys + 1], seqs[#seqs + 1], answer[#answer + 1] = KEYS[4] .. id, found_seqs[i], item
end
answer[6] = letters_of(keys, 'CPRSXD', function(place)
  -- A missing state up to `saved`: settled longer ago than the state TTL.
  return seqs[place] <= saved and 'S' or 'P'
end)
return answer
