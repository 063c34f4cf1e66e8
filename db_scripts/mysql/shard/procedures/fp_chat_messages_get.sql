-- purpose: Live messages of a live room below before_seq (NULL: from the newest), newest first.
-- params: room_id, before_seq, limit
-- returns: message_id, seq, sender_type, content, parent_message_id, metadata, created_at, client_message_id, body_hash, deleted
CREATE PROCEDURE fp_chat_messages_get(
    IN p_room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_before_seq BIGINT,
    IN p_limit INT
)
READS SQL DATA
SELECT message_id, seq, sender_type, content, parent_message_id, metadata, created_at, client_message_id, body_hash,
       deleted
FROM chat_messages
WHERE room_id = p_room_id AND deleted = 0 AND seq < COALESCE(p_before_seq, 9223372036854775807)
  AND EXISTS (SELECT 1 FROM chat_rooms r WHERE r.room_id = p_room_id AND r.deleted = 0)
ORDER BY seq DESC
LIMIT p_limit
