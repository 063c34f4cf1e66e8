-- purpose: A batch was read: messages and rooms that are PENDING become PROCESSING; anything else stays as it is. If
--   rooms of the batch have dead letters, nothing changes and they are named: their events wait behind those.
-- KEYS: 1 rooms with dead letters; 2 epoch; 3 run that it was made in; 4 mark of the lane; 5.. message and room states
-- ARGV: 1.. ids of the batch's rooms; none: dead letters are not looked for
-- returns: {epoch|run, the last event that is known to be in MySQL or '', ids of the rooms that have dead letters…}
-- allow-oom: the log of a state grows by one transition, at most 250 bytes for each message of the batch
local answer = {
  (get_text(KEYS[2]) or '') .. '|' .. (get_text(KEYS[3]) or ''), redis.call('HGET', KEYS[4], 'saved') or '',
}
if #ARGV > 0 then
  for i, letters in ipairs(redis.call('HMGET', KEYS[1], unpack(ARGV))) do
    if letters then answer[#answer + 1] = ARGV[i] end
  end
end
if #answer > 2 or #KEYS < 5 then return answer end
local now, changed = now_ms(), {}
for i, text in ipairs(redis.call('MGET', unpack(KEYS, 5))) do
  if state_of(text) == 'PENDING' then
    changed[#changed + 1] = KEYS[i + 4]
    changed[#changed + 1] = with_state(text, 'PROCESSING', now)
  end
end
if #changed > 0 then redis.call('MSET', unpack(changed)) end
return answer
