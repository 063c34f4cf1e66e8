-- purpose: Throw dead letters of a room away for good. What their events changed in Redis MySQL will never have: when
--   the last letter is gone, the room and its account's list count as of an older run and are read from MySQL again.
--   What was deleted stays so: a dropped delete leaves its state, or the deleted room's record, for good.
-- KEYS: 1 dead letters; 2 persistence lane; 3 rooms with dead letters; 4 room record; 5 messages; 6 room card; 7 account record; 8 account's rooms; 9 account's order; 10.. message states of the saves among the letters
-- ARGV: 1 room_id; 2 TTL of windows in ms; 3 TTL of cards and room lists in ms; 4 state TTL in ms; 5.. repeated (letter id, '1' when it has a message state)
-- returns: {letters dropped, letters left}
local rec, room_id, now = KEYS[4], ARGV[1], now_ms()
refuse_newer(redis.call('HGET', rec, 'format'))
refuse_newer(redis.call('HGET', KEYS[7], 'format'))
local dropped, k = 0, 10
for i = 5, #ARGV, 2 do
  local gone = redis.call('XDEL', KEYS[1], ARGV[i])
  dropped = dropped + gone
  if ARGV[i + 1] == '1' then
    local text = get_text(KEYS[k])
    local state = state_of(text)
    local is_unsaved = state == 'PENDING' or state == 'PROCESSING' or state == 'SENT' and room_of(text)
    if gone == 1 and is_unsaved then set_state(KEYS[k], 'DELETED', now, ARGV[4]) end
    k = k + 1
  end
end
local left, from = 0, '-'
while from do
  local page = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 200)
  from = nil
  for _, item in ipairs(page) do
    for i = 1, #item[2], 2 do
      if item[2][i] == 'dead_group' and item[2][i + 1] == room_id then left = left + 1 end
    end
    from = '(' .. item[1]
  end
end
if left > 0 then redis.call('HSET', KEYS[3], room_id, left) else redis.call('HDEL', KEYS[3], room_id) end

local function is_written(dirty)
  return not dirty or #redis.call('XRANGE', KEYS[2], dirty, dirty) == 0
end

local v = redis.call('HMGET', rec, 'next_seq', 'gone', 'dirty', 'turn_token')
if v[1] and not v[2] then
  if left > 0 then
    redis.call('HSET', rec, 'dropped', '1')
  else
    redis.call('HDEL', rec, 'dropped')
    redis.call('HSET', rec, 'epoch', STALE_GENERATION)
    if is_written(v[3]) and not v[4] then
      redis.call('PEXPIRE', rec, ARGV[2])
      redis.call('PEXPIRE', KEYS[5], ARGV[2])
      redis.call('PEXPIRE', KEYS[6], ARGV[3])
    end
  end
elseif not v[2] and left == 0 and is_written(v[3]) then
  redis.call('DEL', rec)
end
if redis.call('HEXISTS', KEYS[7], 'len') == 1 then
  redis.call('HSET', KEYS[7], 'epoch', STALE_GENERATION)
  if is_written(redis.call('HGET', KEYS[7], 'dirty')) then
    for i = 7, 9 do redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
  end
end
return { dropped, left }
