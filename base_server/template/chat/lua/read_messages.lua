-- purpose: A range of a room's window oldest first, without what was deleted, with the states.
--   page: the visible entries of seq low..high. fill: the newest `count` visible entries at or below high.
-- KEYS: 1 room record; 2 messages; 3 epoch; 4 prefix of message states
-- ARGV: 1 account_db_key; 2 'page'|'fill'; 3 highest seq, or '' for the newest; 4 count; 5 page number (page mode, from 1)
-- returns: {0, floor, low, high, below '1'|'0'|'?', letters of their states, entries…} (low, high: the seqs looked at; below: is a visible message under it) | {1, 'room'} cold | {2} not found | {12} one of the entries is none
local refused = check_room(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
if refused then return { refused, 'room' } end
local v = redis.call('HMGET', KEYS[1], 'floor', 'next_seq', 'saved_seq', 'older')
local floor, top, saved, count = tonumber(v[1]), tonumber(v[2]) - 1, tonumber(v[3]), tonumber(ARGV[4])
local high = ARGV[3] == '' and top or math.min(top, tonumber(ARGV[3]))
local low = floor
local first, items = floor, {}
if ARGV[2] == 'page' then
  high = high - (tonumber(ARGV[5]) - 1) * count
  low = math.max(high - count + 1, 1)
  first = math.max(low, floor)
end
if high >= floor then items = redis.call('LRANGE', KEYS[2], first - floor, high - floor) end
local from, visible = 1, 0
for i = #items, 1, -1 do
  if ARGV[2] == 'fill' and visible >= count then
    from = i + 1
    low = first + i
    break
  end
  if not is_tombstone(items[i]) then visible = visible + 1 end
end
local below = v[4]
for offset = math.min(low, top + 1) - floor - 1, 0, -1 do
  if not is_tombstone(redis.call('LINDEX', KEYS[2], offset)) then
    below = '1'
    break
  end
end

local answer, seqs, keys = { OK, floor, low, high, below, '' }, {}, {}
for i = from, #items do
  local item = items[i]
  if not is_tombstone(item) then
    local id = entry_id(item)
    if id == '' or string.sub(item, -2) ~= '}}' then return { DAMAGED } end
    keys[#keys + 1], seqs[#seqs + 1], answer[#answer + 1] = KEYS[4] .. id, first + i - 1, item
  end
end
answer[6] = letters_of(keys, 'CPRSXD', function(place)
  -- A missing state up to `saved`: settled longer ago than the state TTL.
  return seqs[place] <= saved and 'S' or 'P'
end)
return answer
