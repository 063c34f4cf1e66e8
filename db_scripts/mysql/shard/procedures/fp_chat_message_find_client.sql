-- purpose: The message that a client_message_id made, and the reply behind it (NULL when there is none).
-- params: room_id, client_message_id
-- returns: message_id, seq, body_hash, deleted, reply_message_id
CREATE PROCEDURE fp_chat_message_find_client(
    IN p_room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_client_message_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin
)
READS SQL DATA
SELECT m.message_id, m.seq, m.body_hash, m.deleted, r.message_id AS reply_message_id
FROM chat_messages m
LEFT JOIN chat_messages r
    ON r.room_id = m.room_id AND r.seq = m.seq + 1 AND r.parent_message_id = m.message_id
WHERE m.room_id = p_room_id AND m.client_message_id = p_client_message_id
