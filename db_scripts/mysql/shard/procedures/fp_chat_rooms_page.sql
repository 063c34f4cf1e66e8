-- purpose: One page of an account's live rooms, newest activity first. A page past the end has no row (and no total).
-- params: account_db_key, offset, limit
-- returns: room_id, title, title_version, ai_persona, created_at, last_message_at, message_count, last_seq, client_request_id, request_hash, total_count
CREATE PROCEDURE fp_chat_rooms_page(
    IN p_account_db_key BIGINT,
    IN p_offset INT,
    IN p_limit INT
)
READS SQL DATA
SELECT room_id, title, title_version, ai_persona, created_at, last_message_at, message_count, last_seq,
       client_request_id, request_hash,
       (SELECT COUNT(*) FROM chat_rooms WHERE account_db_key = p_account_db_key AND deleted = 0) AS total_count
FROM chat_rooms
WHERE account_db_key = p_account_db_key AND deleted = 0
ORDER BY last_message_at DESC, room_id DESC
LIMIT p_offset, p_limit
