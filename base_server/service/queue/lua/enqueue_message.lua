-- purpose: Append a message to its lane: once, as long as that is remembered, unless the lane is full. A message that is sent
--   is remembered by its id. One that is moved from another lane is remembered by its entry there too, and that alone
--   decides: its id may be remembered here because it was sent to this partition first and moved away since.
-- KEYS: 1 lane stream; 2 memory of the message id; 3 memory of the entry in the other lane, for a message that is moved
-- ARGV: 1 message id; 2 limit of the lane; 3 time to remember in ms; 4 type; 5 payload JSON; 6 priority; 7 partition key or ""
-- returns: 0 stored, now or before | 1 full, nothing written
if redis.call('EXISTS', KEYS[#KEYS]) == 1 then
  return 0
end
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[2]) then
  return 1
end
redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'type', ARGV[4], 'payload', ARGV[5],
  'priority', ARGV[6], 'key', ARGV[7], 'at', string.format('%.0f', now_ms()))
for key = 2, #KEYS do redis.call('SET', KEYS[key], '1', 'PX', ARGV[3]) end
return 0
