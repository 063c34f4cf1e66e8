-- purpose: A batch was read: messages and rooms that are PENDING become PROCESSING; anything else stays as it is. If
--   rooms of the batch have dead letters, nothing changes and they are named: their events wait behind those.
-- KEYS: 1 rooms with dead letters; 2.. message and room states
-- ARGV: 1.. ids of the batch's rooms; none: dead letters are not looked for
-- returns: ids of the rooms that have dead letters
-- allow-oom: the log of a state grows by one transition, at most 250 bytes for each message of the batch
local held = {}
if #ARGV > 0 then
  for i, letters in ipairs(redis.call('HMGET', KEYS[1], unpack(ARGV))) do
    if letters then held[#held + 1] = ARGV[i] end
  end
end
if #held > 0 or #KEYS < 2 then return held end
local now, changed = now_ms(), {}
for i, text in ipairs(redis.call('MGET', unpack(KEYS, 2))) do
  if state_of(text) == 'PENDING' then
    changed[#changed + 1] = KEYS[i + 1]
    changed[#changed + 1] = with_state(text, 'PROCESSING', now)
  end
end
if #changed > 0 then redis.call('MSET', unpack(changed)) end
return held
