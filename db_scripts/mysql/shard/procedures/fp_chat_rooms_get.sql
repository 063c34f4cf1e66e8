-- purpose: All live rooms of an account, newest activity first.
-- params: account_db_key
-- returns: room_id, title, title_version, ai_persona, created_at, last_message_at, message_count, last_seq, client_request_id, request_hash
CREATE PROCEDURE fp_chat_rooms_get(
    IN p_account_db_key BIGINT
)
READS SQL DATA
SELECT room_id, title, title_version, ai_persona, created_at, last_message_at, message_count, last_seq,
       client_request_id, request_hash
FROM chat_rooms
WHERE account_db_key = p_account_db_key AND deleted = 0
ORDER BY last_message_at DESC, room_id DESC
