-- purpose: Live messages of a live room below before_seq (NULL: from the newest), newest first.
-- params: room_id, before_seq, limit
-- returns: message_id, seq, sender_type, content, parent_message_id, metadata, created_at, client_message_id, body_hash, deleted
SELECT message_id, seq, sender_type, content, parent_message_id, metadata, created_at, client_message_id, body_hash,
       deleted
FROM chat_messages
WHERE room_id = :room_id AND deleted = 0 AND seq < COALESCE(:before_seq, 9223372036854775807)
  AND EXISTS (SELECT 1 FROM chat_rooms WHERE room_id = :room_id AND deleted = 0)
ORDER BY seq DESC
LIMIT :limit;
