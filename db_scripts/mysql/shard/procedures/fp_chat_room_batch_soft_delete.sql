-- purpose: fp_chat_room_soft_delete for many rooms, all or none. Another account's room stays; one that
--   its messages await is refused: deleted cannot be NULL.
-- params: rows
-- returns:
-- rows: room_id, account_db_key
CREATE PROCEDURE fp_chat_room_batch_soft_delete(
    IN p_rows LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
)
MODIFIES SQL DATA
BEGIN
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        ROLLBACK;
        RESIGNAL;
    END;
    IF p_rows IS NULL OR LEFT(p_rows, 1) <> '[' OR NOT JSON_VALID(p_rows) THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'rows: not a JSON array';
    END IF;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;

    INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, deleted)
    SELECT n.room_id, n.account_db_key, '', '', '1970-01-01 00:00:00.000', '1970-01-01 00:00:00.000', 1
    FROM JSON_TABLE(p_rows, '$[*]' COLUMNS (
        room_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.room_id' ERROR ON ERROR,
        account_db_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.account_db_key' ERROR ON ERROR
    )) n
    ORDER BY n.room_id
    ON DUPLICATE KEY UPDATE deleted = IF(
        chat_rooms.account_db_key = VALUES(account_db_key), 1, IF(chat_rooms.deleted = 2, NULL, chat_rooms.deleted));

    COMMIT;
END
