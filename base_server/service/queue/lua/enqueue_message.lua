-- purpose: Append a message to its lane: once for each message id (as long as the id is remembered), unless the lane is full.
-- KEYS: 1 lane stream; 2 memory of the message id
-- ARGV: 1 message id; 2 limit of the lane; 3 time to remember the id in ms; 4 type; 5 payload JSON; 6 priority; 7 partition key or ""
-- returns: 0 stored, now or before | 1 full, nothing written
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[2]) then
  return 1
end
redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'type', ARGV[4], 'payload', ARGV[5],
  'priority', ARGV[6], 'key', ARGV[7], 'at', string.format('%.0f', now_ms()))
redis.call('SET', KEYS[2], '1', 'PX', ARGV[3])
return 0
