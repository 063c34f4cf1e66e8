-- purpose: Append text to the stream of a running reply, note its usage so far and renew its
--   lease; refused once the slot is another's. Sent twice, or after an answer that was lost,
--   nothing is written twice.
-- KEYS: room_record; reply_stream; leases; signals
-- ARGV: slot_token; room_id; reply_id;
--   text_from int byte of the reply's text at which this text begins; text '' only renews;
--   lease_ms int; usage model and tokens so far as JSON members, or ''; claim_id;
--   is_called flag the provider is called
-- returns: {0, '1' when another process reads along or ''} | {7} the slot was taken away by
--   somebody else, or another process has it | {10, length} the stream holds less: append from
--   there
-- allow-oom: text of one running reply, at most llmConfig.max_reply_chars
local watched_by = 'w:' .. reply_id
local room = read_fields(room_record, { 'turn_token', 'turn_phase', 'format', watched_by })
refuse_newer(room.format)
local phase = room.turn_phase
if room.turn_token ~= slot_token or not may_write(phase, claim_id) then return { SUPERSEDED } end
-- A Redis that came back older may have forgotten the claim: nobody else may call.
if is_called and (phase == 'ready' or phase == UNSURE_PHASE) then
  redis.call('HSET', room_record, 'turn_phase', 'calling ' .. claim_id)
end
-- A process that has not called waits for the lease of an unsure slot like any other: renewed by
-- the one that waits, it would never end.
if is_called or phase ~= UNSURE_PHASE then
  on_leases('ZADD', leases, int(now_ms() + lease_ms), room_id)
end
redis.call('HSET', room_record, 'turn_facts', usage)
local is_watched = room[watched_by] == 'text'
if text ~= '' then
  local length = stream_length(reply_stream)
  if length < text_from then return { PARTIAL, length } end
  append_text(reply_stream, text_from, text)
  if is_watched then notify(signals, 'text', reply_id) end
end
return { OK, is_watched and '1' or '' }
