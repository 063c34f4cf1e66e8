-- purpose: Where a message is, for a caller that knows its id alone.
-- params: message_id
-- returns: room_id, account_db_key, seq, deleted
CREATE PROCEDURE fp_chat_message_locate(
    IN p_message_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin
)
READS SQL DATA
SELECT room_id, account_db_key, seq, deleted
FROM chat_messages
WHERE message_id = p_message_id
