-- purpose: Append text to the stream of a running reply and renew its lease; refused once the turn is another's.
-- KEYS: 1 room record; 2 reply stream; 3 leases
-- ARGV: 1 turn token; 2 room_id; 3 length of the reply's text in bytes including this delta; 4 text ('' only renews); 5 lease in ms
-- returns: {0} | {7} the turn was ended by somebody else
if redis.call('HGET', KEYS[1], 'turn_token') ~= ARGV[1] then return { LOST } end
redis.call('ZADD', KEYS[3], int(now_ms() + tonumber(ARGV[5])), ARGV[2])
if ARGV[4] ~= '' then
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  local id = ARGV[3] .. '-0'
  if not last or not id_at_most(id, last[1]) then redis.call('XADD', KEYS[2], id, 'text', ARGV[4]) end
end
return { OK }
