-- purpose: Put a room's dead letters back at the end of their lane, in the order in which they first came; when none is
--   left, what waits in the lane of the room goes behind them and the room is held no longer. All of it or nothing.
--   Entries keep their first id in `was`. The records learn what their loads and their TTL have to wait for.
-- KEYS: 1 dead letters; 2 persistence lane; 3 rooms with dead letters; 4 room record; 5 account record; 6 account's rooms; 7 account's order
-- ARGV: 1 room_id; 2 the last letter to go, '' for all; 3 longest lane that is looked through; 4 TTL in ms of a note in the place of an account record
-- returns: {0, letters put back, letters left} | {6, 'backlog'} the lane is too long | {2} no such letter
local dead, lane, room_id = KEYS[1], KEYS[2], ARGV[1]
local PAGE = 200

local function each_entry(stream, visit)
  local from = '-'
  while true do
    local page = redis.call('XRANGE', stream, from, '+', 'COUNT', PAGE)
    for _, item in ipairs(page) do
      local fields = {}
      for i = 1, #item[2], 2 do fields[item[2][i]] = item[2][i + 1] end
      visit(item[1], item[2], fields)
    end
    if #page < PAGE then return end
    from = '(' .. page[#page][1]
  end
end

refuse_newer(redis.call('HGET', KEYS[4], 'format'))
refuse_newer(redis.call('HGET', KEYS[5], 'format'))
local letters, left = {}, 0
each_entry(dead, function(id, flat, fields)
  if fields.dead_group == room_id then
    letters[#letters + 1] = { id = id, flat = flat, fields = fields, was = fields.dead_entry }
  end
end)
table.sort(letters, function(a, b) return a.was ~= b.was and id_at_most(a.was, b.was) end)
if ARGV[2] ~= '' then
  local last
  for i, letter in ipairs(letters) do
    if letter.id == ARGV[2] then last = i end
  end
  if not last then return { NOT_FOUND } end
  left = #letters - last
  for i = #letters, last + 1, -1 do letters[i] = nil end
end
local waiting = {}
if left == 0 then
  if redis.call('XLEN', lane) > tonumber(ARGV[3]) then return { FULL, 'backlog' } end
  each_entry(lane, function(id, flat, fields)
    if fields.key == room_id and not fields.was then
      waiting[#waiting + 1] = { id = id, flat = flat, fields = fields, was = id }
    end
  end)
end

local newest, newest_of_account
local function append(item)
  local flat = {}
  for i = 1, #item.flat, 2 do
    if string.sub(item.flat[i], 1, 5) ~= 'dead_' then
      flat[#flat + 1] = item.flat[i]
      flat[#flat + 1] = item.flat[i + 1]
    end
  end
  flat[#flat + 1] = 'was'
  flat[#flat + 1] = item.was
  newest = redis.call('XADD', lane, '*', unpack(flat))
  local kind = item.fields.type
  if kind == 'CHAT_ROOM_CREATE' or kind == 'CHAT_ROOM_DELETE'
    or string.find(item.fields.payload or '', '"sender_type":"USER"', 1, true) then
    newest_of_account = newest
  end
end
for _, letter in ipairs(letters) do
  append(letter)
  redis.call('XDEL', dead, letter.id)
end
for _, item in ipairs(#letters > 0 and waiting or {}) do
  append(item)
  redis.call('XDEL', lane, item.id)
end

if left > 0 then redis.call('HSET', KEYS[3], room_id, left) else redis.call('HDEL', KEYS[3], room_id) end
local v = redis.call('HMGET', KEYS[4], 'next_seq', 'dirty', 'dropped')
if newest then
  -- Without dirty it was loaded from MySQL, which does not know these letters.
  if not v[2] then redis.call('HSET', KEYS[4], 'epoch', v[1] and STALE_GENERATION or NO_GENERATION) end
  redis.call('HSET', KEYS[4], 'dirty', newest)
  pin(KEYS[4])
end
if left == 0 and v[3] then
  redis.call('HDEL', KEYS[4], 'dropped')
  redis.call('HSET', KEYS[4], 'epoch', STALE_GENERATION)
end
if newest_of_account then
  local known = redis.call('HEXISTS', KEYS[5], 'len') == 1
  redis.call('HSET', KEYS[5], 'dirty', newest_of_account)
  if known then
    pin(KEYS[5], KEYS[6], KEYS[7])
  else
    redis.call('HSET', KEYS[5], 'epoch', NO_GENERATION)
    redis.call('PEXPIRE', KEYS[5], ARGV[4])
  end
end
return { OK, #letters, left }
