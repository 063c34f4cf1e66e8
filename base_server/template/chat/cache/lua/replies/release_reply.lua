-- purpose: A process lets go of a reply that is not its own any more. One that is over (deleted,
--   or its room's record was lost) is open no more, and its stream ends; one that another process
--   took up notifies of its text, for those who read it here.
-- KEYS: room_record; open_replies; reply_stream
-- ARGV: slot_token; reply_id; stream_ttl_ms int
-- returns: 0 it is over | 1 it goes on in another process
-- allow-oom: one field of a record
-- A record of another type is one that was lost.
if redis.pcall('HGET', room_record, 'turn_token') == slot_token then
  refuse_newer(redis.call('HGET', room_record, 'format'))
  redis.call('HSET', room_record, 'w:' .. reply_id, 'text')
  return 1
end
redis.pcall('ZREM', open_replies, reply_id)
redis.call('PEXPIRE', reply_stream, stream_ttl_ms)
return 0
