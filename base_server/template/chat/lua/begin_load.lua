-- purpose: Start loading a room or an account's list from MySQL: only when nothing of it is still on its way there.
--   The token is deleted by any write, and a fill without it is refused.
-- KEYS: 1 record; 2 epoch; 3 persistence lane; 4 mark of the lane's backlog; 5 load token; 6 list (messages, or the rooms set); 7 room card, or the account's order
-- ARGV: 1 'room'|'account'; 2 token; 3 token TTL in ms
-- returns: {0, epoch} go on | {11} loaded meanwhile, or deleted | {8} events of an older record or an older Redis run are not in MySQL yet, or its reply still runs
local v = redis.call('HMGET', KEYS[1], 'epoch', 'gone', 'dirty', 'turn_token', 'len')
local epoch = redis.call('GET', KEYS[2])
if v[2] then return { REPEAT } end
if v[1] == epoch then
  local len = tonumber(v[5])
  if ARGV[1] == 'room' and len == redis.call('LLEN', KEYS[6]) and redis.call('EXISTS', KEYS[7]) == 1 then
    return { REPEAT }
  end
  if ARGV[1] == 'account' and len == redis.call('SCARD', KEYS[6]) and len == redis.call('ZCARD', KEYS[7]) then
    return { REPEAT }
  end
end
if v[4] then return { WAIT } end
local first = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
if first and v[3] and id_at_most(first[1], v[3]) then return { WAIT } end
local mark = redis.call('HMGET', KEYS[4], 'epoch', 'id')
if mark[1] ~= epoch then
  local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
  mark[2] = last and last[1] or '0-0'
  redis.call('HSET', KEYS[4], 'epoch', epoch, 'id', mark[2])
end
if first and id_at_most(first[1], mark[2]) then return { WAIT } end
redis.call('DEL', KEYS[1], KEYS[6])
if ARGV[1] == 'account' then redis.call('DEL', KEYS[7]) end
redis.call('SET', KEYS[5], ARGV[2], 'PX', ARGV[3])
return { OK, epoch }
