-- purpose: Take a turn that is ready and mark it claimed; a turn once claimed (or calling: granted when its question
--   was accepted) is never called again. Who claimed it may ask again: the first answer may have been lost.
-- KEYS: 1 room record; 2 messages; 3 turns; 4 leases
-- ARGV: 1 turn token; 2 room_id; 3 lease in ms; 4 history length; 5 claim id, of the one task that asks
-- returns: {0, question, history…} taken (question '' when it was deleted) | {8} still waiting | {7} no longer this turn's
local v = redis.call('HMGET', KEYS[1], 'turn_token', 'turn', 'turn_phase', 'floor')
if v[1] ~= ARGV[1] then return { find_waiting(KEYS[3], 'token', ARGV[1]) and WAIT or LOST } end
local claimed = 'claimed ' .. ARGV[5]
if v[3] ~= 'ready' and v[3] ~= claimed then return { LOST } end
local now = now_ms()
redis.call('HSET', KEYS[1], 'turn_phase', claimed, 'turn_at', int(now))
redis.call('ZADD', KEYS[4], int(now + tonumber(ARGV[3])), ARGV[2])
local offset = tonumber(string.match(v[2], '^[^|]+|[^|]+|(%d+)')) - 1 - tonumber(v[4])
local question = offset >= 0 and redis.call('LINDEX', KEYS[2], offset) or ''
if not question or question == '' or is_tombstone(question) then return { OK, '' } end
local answer = { OK, question }
if offset > 0 then
  for _, item in ipairs(redis.call('LRANGE', KEYS[2], math.max(0, offset - tonumber(ARGV[4])), offset - 1)) do
    answer[#answer + 1] = item
  end
end
return answer
