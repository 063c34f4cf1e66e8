-- purpose: Append a message to its stream: once, as long as that is remembered, unless the stream
--   is full. A message that is sent is remembered by its id. One that is moved from another
--   stream is remembered by its entry there too, and that alone decides: its id may be remembered
--   here because it was sent to this partition first and moved away since.
-- KEYS: stream; sent_note of the message id;
--   moved_note of the entry in the other stream, for a message that is moved
-- ARGV: message_id; limit int of the stream; note_ttl_ms; type_name; payload JSON; priority;
--   partition_key or ''
-- returns: 0 stored, now or before | 1 full, nothing written
if redis.call('EXISTS', moved_note or sent_note) == 1 then return 0 end
if redis.call('XLEN', stream) >= limit then return 1 end
redis.call('XADD', stream, '*', 'id', message_id, 'type', type_name, 'payload', payload,
  'priority', priority, 'key', partition_key, 'at', int(now_ms()))
redis.call('SET', sent_note, '1', 'PX', note_ttl_ms)
if moved_note then redis.call('SET', moved_note, '1', 'PX', note_ttl_ms) end
return 0
