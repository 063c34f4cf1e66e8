-- purpose: Whether a room has a message, and where.
-- params: room_id, message_id
-- returns: message_id, seq, sender_type, deleted
CREATE PROCEDURE fp_chat_message_find(
    IN p_room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_message_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin
)
READS SQL DATA
SELECT message_id, seq, sender_type, deleted
FROM chat_messages
WHERE message_id = p_message_id AND room_id = p_room_id
