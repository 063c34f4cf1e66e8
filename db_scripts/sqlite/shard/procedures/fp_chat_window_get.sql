-- purpose: The last `count` numbers of a room, tombstones too (content as stored), ascending.
-- params: room_id, count
-- returns: message_id, seq, sender_type, content, parent_message_id, metadata, created_at, client_message_id, body_hash, deleted
SELECT message_id, seq, sender_type, content, parent_message_id, metadata, created_at, client_message_id, body_hash,
       deleted
FROM chat_messages
WHERE room_id = :room_id
  AND seq > (SELECT MAX(seq) FROM chat_messages WHERE room_id = :room_id) - :count
ORDER BY seq;
