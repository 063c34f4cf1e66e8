-- purpose: The room that a client_request_id of this account made.
-- params: account_db_key, client_request_id
-- returns: room_id, request_hash, deleted
CREATE PROCEDURE fp_chat_room_find_request(
    IN p_account_db_key BIGINT,
    IN p_client_request_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin
)
READS SQL DATA
SELECT room_id, request_hash, deleted
FROM chat_rooms
WHERE account_db_key = p_account_db_key AND client_request_id = p_client_request_id
