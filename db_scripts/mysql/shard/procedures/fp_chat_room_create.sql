-- purpose: Store a room unless it is there; a tombstone stays one. Messages that came before it are counted already.
--   A client_request_id that another room of the account has is refused.
--   So is a room that messages of another account await: account_db_key cannot be NULL.
-- params: room_id, account_db_key, title, ai_persona, created_at, client_request_id, request_hash
-- returns:
CREATE PROCEDURE fp_chat_room_create(
    IN p_room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_account_db_key BIGINT,
    IN p_title VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_ai_persona VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_created_at VARCHAR(26) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_client_request_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_request_hash VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin
)
MODIFIES SQL DATA
BEGIN
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        ROLLBACK;
        RESIGNAL;
    END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;

    INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, deleted)
    VALUES (p_room_id, p_account_db_key, '', '', '1970-01-01 00:00:00.000', '1970-01-01 00:00:00.000', 2)
    ON DUPLICATE KEY UPDATE account_db_key = IF(
        chat_rooms.deleted = 2 AND chat_rooms.account_db_key <> VALUES(account_db_key), NULL, chat_rooms.account_db_key);

    UPDATE chat_rooms SET
        account_db_key = p_account_db_key, title = p_title, ai_persona = p_ai_persona,
        created_at = LEFT(p_created_at, 23),
        last_message_at = GREATEST(last_message_at, CAST(LEFT(p_created_at, 23) AS DATETIME(3))),
        client_request_id = p_client_request_id, request_hash = p_request_hash, deleted = 0
    WHERE room_id = p_room_id AND deleted = 2;

    COMMIT;
END
