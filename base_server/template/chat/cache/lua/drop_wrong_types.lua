-- purpose: Take keys of another type than ours out of the way, so that they count as missing. In the place of a lost
--   record stands a note that its load waits until the lane's present backlog is in MySQL. Without a list the record is
--   not whole: what the list alone knew (who waits for a turn) is put right when the room is loaded.
-- KEYS: 1 persistence lane; 2 room record or account record; 3.. the lists that belong to it
-- ARGV: 1.. the type of each key, from KEYS[2] on
-- returns: how many keys were dropped
local format = redis.pcall('HGET', KEYS[2], 'format')
if type(format) == 'string' then refuse_newer(format) end
local dropped = 0
for i = 2, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= ARGV[i - 1] then
    redis.call('DEL', KEYS[i])
    dropped = dropped + 1
    local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
    if i == 2 and last then redis.call('HSET', KEYS[2], 'epoch', NO_GENERATION, 'dirty', last[1]) end
    if ARGV[i - 1] == 'list' and redis.call('HEXISTS', KEYS[2], 'len') == 1 then redis.call('HSET', KEYS[2], 'epoch', STALE_GENERATION) end
  end
end
return dropped
