-- purpose: Take the slot of a reply just before the provider is called, by the process that
--   calls: once marked so, it is never called again. Nobody owns a slot by having stored its
--   question: a process whose call timed out, or that died, does not know of it. The process that
--   took it may claim it again: the first answer may have been lost. Only a record of this Redis
--   run says whether the question was asked: an older one may have forgotten.
-- KEYS: room_record; messages; waiters; leases; generation
-- ARGV: slot_token; room_id; account_db_key; lease_ms int; claim_id of the one task that calls;
--   history_length int to look whether the slot may be taken and for what, '' to take it;
--   is_alone flag no other process can have called
-- returns: {0, question, history…} it may be taken (question '' when it was deleted) | {0, '1'}
--   taken | {0, ''} taken, but the question was deleted | {8} still waiting | {7} no longer this
--   slot's, or another process calls | {1, 'room'} not loaded
-- allow-oom: one field of a record
local refused, room = check_room(room_record, messages, generation, account_db_key,
  { 'turn_token', 'turn', 'turn_phase', 'floor' })
if refused then return { refused == NOT_LOADED and NOT_LOADED or SUPERSEDED, 'room' } end
if room.turn_token ~= slot_token then
  return { find_waiter(waiters, 'token', slot_token) and WAIT or SUPERSEDED }
end
if not may_write(room.turn_phase, claim_id) then return { SUPERSEDED } end
-- The process that may have called before an older Redis came back renews its lease if it lives.
if room.turn_phase == UNSURE_PHASE and not is_alone then
  local lease = on_leases('ZSCORE', leases, room_id)
  if lease and tonumber(lease) > now_ms() then return { WAIT } end
end

local _, _, seq, question_id = parts_of(room.turn)
local index = tonumber(seq) - 1 - tonumber(room.floor)
local question = index >= 0 and redis.call('LINDEX', messages, index) or ''
-- A reply whose number was taken stands elsewhere than behind its question.
if not question or id_of(question) ~= question_id then
  index, question = find_message(messages, question_id)
end
if not question or is_tombstone(question) then question = '' end
if not history_length then
  local now = now_ms()
  redis.call('HSET', room_record, 'turn_phase', 'calling ' .. claim_id, 'turn_at', int(now))
  on_leases('ZADD', leases, int(now + lease_ms), room_id)
  return { OK, question ~= '' and '1' or '' }
end
local answer = { OK, question }
if question ~= '' and index > 0 then
  local first = math.max(0, index - history_length)
  for _, item in ipairs(redis.call('LRANGE', messages, first, index - 1)) do
    answer[#answer + 1] = item
  end
end
return answer
