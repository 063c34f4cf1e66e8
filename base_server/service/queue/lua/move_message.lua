-- purpose: Append a message that waits in another lane, once for each entry there, unless this lane is full. That its id is
--   remembered here is no reason to leave it out: it may have been sent to this partition first and moved away since, or
--   what waits here of that id may be on its way to the other lane.
-- KEYS: 1 lane stream; 2 memory of the message id; 3 memory of the entry in the other lane
-- ARGV: 1 message id; 2 limit of the lane; 3 time to remember the ids in ms; 4 type; 5 payload JSON; 6 priority; 7 partition key or ""
-- returns: 0 stored, now or before | 1 full, nothing written
if redis.call('EXISTS', KEYS[3]) == 1 then
  return 0
end
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[2]) then
  return 1
end
redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'type', ARGV[4], 'payload', ARGV[5],
  'priority', ARGV[6], 'key', ARGV[7], 'at', string.format('%.0f', now_ms()))
for key = 2, 3 do redis.call('SET', KEYS[key], '1', 'PX', ARGV[3]) end
return 0
