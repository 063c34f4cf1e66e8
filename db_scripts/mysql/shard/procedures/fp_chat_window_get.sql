-- purpose: The last `count` numbers of a room, tombstones too (content as stored), ascending.
-- params: room_id, count
-- returns: message_id, seq, sender_type, content, parent_message_id, metadata, created_at, client_message_id, body_hash, deleted
CREATE PROCEDURE fp_chat_window_get(
    IN p_room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_count INT
)
READS SQL DATA
SELECT message_id, seq, sender_type, content, parent_message_id, metadata, created_at, client_message_id, body_hash,
       deleted
FROM chat_messages
WHERE room_id = p_room_id
  AND seq > (SELECT MAX(m.seq) FROM chat_messages m WHERE m.room_id = p_room_id) - p_count
ORDER BY seq
