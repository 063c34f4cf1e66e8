-- purpose: Take the slot of a reply just before the provider is called, by the process that calls: once marked so, it is
--   never called again. Nobody owns a slot by having stored its question: a process whose call timed out, or that died,
--   does not know of it. Who took it may ask again: the first answer may have been lost.
--   Only a record of this Redis run says whether the question was asked: an older one may have forgotten it.
-- KEYS: 1 room record; 2 messages; 3 turns; 4 leases; 5 epoch
-- ARGV: 1 turn token; 2 room_id; 3 account_db_key; 4 lease in ms; 5 claim id, of the one task that asks; 6 history length to look whether the slot may be taken and for what, or '' to take it; 7 '1' when no other process can have asked, else ''
-- returns: {0, question, history…} it may be taken (question '' when it was deleted) | {0, '1'} taken | {0, ''} taken, but the question was deleted | {8} still waiting | {7} no longer this turn's, or another process asks | {1, 'room'} cold
-- allow-oom: one field of a record
local refused = check_room(KEYS[1], KEYS[2], KEYS[5], ARGV[3])
if refused then return { refused == COLD and COLD or LOST, 'room' } end
local v = redis.call('HMGET', KEYS[1], 'turn_token', 'turn', 'turn_phase', 'floor')
if v[1] ~= ARGV[1] then return { find_waiting(KEYS[3], 'token', ARGV[1]) and WAIT or LOST } end
if not may_write(v[3], ARGV[5]) then return { LOST } end
if v[3] == UNSURE_PHASE and ARGV[7] == '' then
  local lease = on_leases('ZSCORE', KEYS[4], ARGV[2])
  if lease and tonumber(lease) > now_ms() then return { WAIT } end
end
local _, _, seq, question_id = parts_of(v[2])
local offset = tonumber(seq) - 1 - tonumber(v[4])
local question = offset >= 0 and redis.call('LINDEX', KEYS[2], offset) or ''
-- A reply whose number was taken stands elsewhere than behind its question.
if not question or entry_id(question) ~= question_id then offset, question = find_entry(KEYS[2], question_id) end
if not question or is_tombstone(question) then question = '' end
if ARGV[6] == '' then
  local now = now_ms()
  redis.call('HSET', KEYS[1], 'turn_phase', 'calling ' .. ARGV[5], 'turn_at', int(now))
  on_leases('ZADD', KEYS[4], int(now + tonumber(ARGV[4])), ARGV[2])
  return { OK, question ~= '' and '1' or '' }
end
local answer = { OK, question }
if question ~= '' and offset > 0 then
  for _, item in ipairs(redis.call('LRANGE', KEYS[2], math.max(0, offset - tonumber(ARGV[6])), offset - 1)) do
    answer[#answer + 1] = item
  end
end
return answer
