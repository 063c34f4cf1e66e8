-- purpose: One room, also a deleted one. last_seq is never below the highest seq stored.
-- params: room_id
-- returns: room_id, title, title_version, ai_persona, created_at, last_message_at, message_count, last_seq, client_request_id, request_hash, account_db_key, deleted
CREATE PROCEDURE fp_chat_room_get(
    IN p_room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin
)
READS SQL DATA
SELECT room_id, title, title_version, ai_persona, created_at, last_message_at, message_count,
       GREATEST(last_seq, COALESCE((SELECT MAX(seq) FROM chat_messages WHERE room_id = p_room_id), 0)) AS last_seq,
       client_request_id, request_hash, account_db_key, deleted
FROM chat_rooms
WHERE room_id = p_room_id AND deleted IN (0, 1)
