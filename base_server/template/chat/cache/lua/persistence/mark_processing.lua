-- purpose: A batch was read: messages and rooms that are PENDING become PROCESSING; anything else
--   stays as it is. If rooms of the batch have dead letters, nothing changes and they are named:
--   their events wait behind those.
-- KEYS: blocked_rooms; generation; server_run of the generation; watermark;
--   states... of messages and rooms
-- ARGV: room_ids... of the batch, none = dead letters are not looked for
-- returns: {generation|run, the last event that is known to be in MySQL or '', ids of the rooms
--   that have dead letters…}
-- allow-oom: the log of a state grows by one transition, at most 250 bytes for each message of
--   the batch
local answer = {
  (get_text(generation) or '') .. '|' .. (get_text(server_run) or ''),
  redis.call('HGET', watermark, 'saved') or '',
}
if #room_ids > 0 then
  for i, dead_letters in ipairs(redis.call('HMGET', blocked_rooms, unpack(room_ids))) do
    if dead_letters then answer[#answer + 1] = room_ids[i] end
  end
end
if #answer > 2 or #states == 0 then return answer end
local now, changed = now_ms(), {}
for i, text in ipairs(redis.call('MGET', unpack(states))) do
  if state_of(text) == 'PENDING' then
    changed[#changed + 1] = states[i]
    changed[#changed + 1] = with_state(text, 'PROCESSING', now)
  end
end
if #changed > 0 then redis.call('MSET', unpack(changed)) end
return answer
