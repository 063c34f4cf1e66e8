-- purpose: Append text to the stream of a running reply, note its usage so far and renew its lease; refused once the
--   turn is another's. Sent twice, or after an answer that was lost, nothing is written twice.
-- KEYS: 1 room record; 2 reply stream; 3 leases; 4 news
-- ARGV: 1 turn token; 2 room_id; 3 reply id; 4 byte of the reply's text at which this text begins; 5 text ('' only renews); 6 lease in ms; 7 model and tokens so far as JSON members, or ''; 8 claim id; 9 '1' once the provider is called
-- returns: {0, '1' when another process reads along or ''} | {7} the turn was ended by somebody else, or another process has it | {10, length} the stream holds less: append from there
-- allow-oom: text of one running reply, at most llmConfig.max_reply_chars
local v = redis.call('HMGET', KEYS[1], 'turn_token', 'w:' .. ARGV[3], 'turn_phase', 'format')
refuse_newer(v[4])
if v[1] ~= ARGV[1] or not may_write(v[3], ARGV[8]) then return { LOST } end
-- A Redis that came back older may have forgotten the claim: nobody else may ask.
if ARGV[9] == '1' and (v[3] == 'ready' or v[3] == UNSURE_PHASE) then
  redis.call('HSET', KEYS[1], 'turn_phase', 'calling ' .. ARGV[8])
end
-- Who has not called waits for the lease of an unsure slot like anybody else: renewed by the one that waits, it would
-- never end.
if ARGV[9] == '1' or v[3] ~= UNSURE_PHASE then
  on_leases('ZADD', KEYS[3], int(now_ms() + tonumber(ARGV[6])), ARGV[2])
end
redis.call('HSET', KEYS[1], 'turn_facts', ARGV[7])
if ARGV[5] ~= '' then
  local have = stream_length(KEYS[2])
  if have < tonumber(ARGV[4]) then return { PARTIAL, have } end
  append_text(KEYS[2], tonumber(ARGV[4]), ARGV[5])
  if v[2] == 'text' then tell(KEYS[4], 'text', ARGV[3]) end
end
return { OK, v[2] == 'text' and '1' or '' }
