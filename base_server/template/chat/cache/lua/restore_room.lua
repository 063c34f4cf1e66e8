-- purpose: Queue events of a room again that a database lost, made from what Redis has of the room: it is pinned until they
--   are written. Where the database does not know the room, the account's list is read again after it.
-- KEYS: 1 room record; 2 messages; 3 room card; 4 persistence lane; 5 account record; 6 account's rooms; 7 account's order
-- ARGV: 1 TTL in ms of a note in the place of an account record; 2 '1' when the account's list changes, else ''; 3.. for each event: how many words, then its fields and values
-- returns: id of the first event that was queued, '' for none
refuse_newer(redis.call('HGET', KEYS[1], 'format'))
refuse_newer(redis.call('HGET', KEYS[5], 'format'))
local first, newest, i, now = nil, nil, 3, int(now_ms())
while i <= #ARGV do
  local words = tonumber(ARGV[i])
  newest = redis.call('XADD', KEYS[4], '*', 'priority', '2', 'at', now, unpack(ARGV, i + 1, i + words))
  first, i = first or newest, i + words + 1
end
if not newest then return '' end
redis.call('HSET', KEYS[1], 'dirty', newest)
pin(KEYS[1], KEYS[2], KEYS[3])
if ARGV[2] == '1' then
  if redis.call('HEXISTS', KEYS[5], 'len') == 1 then
    redis.call('HSET', KEYS[5], 'epoch', STALE_GENERATION, 'dirty', newest)
    pin(KEYS[5], KEYS[6], KEYS[7])
  else
    redis.call('HSET', KEYS[5], 'epoch', NO_GENERATION, 'dirty', newest)
    redis.call('PEXPIRE', KEYS[5], ARGV[1])
  end
end
return first
