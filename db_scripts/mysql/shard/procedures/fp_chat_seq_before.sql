-- purpose: The seq of the last message made strictly before a time (in the order of created_at).
-- params: room_id, before
-- returns: seq
CREATE PROCEDURE fp_chat_seq_before(
    IN p_room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_before DATETIME(6)
)
READS SQL DATA
SELECT seq FROM chat_messages
WHERE room_id = p_room_id AND created_at < p_before
ORDER BY created_at DESC, seq DESC
LIMIT 1
