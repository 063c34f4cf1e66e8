-- purpose: fp_chat_room_create for many rooms, all or none. A title_version of -1 marks a title that nobody gave.
--   Where another room has the client_request_id, this one is stored without: a Redis that lost the other gave it twice.
--   One that messages of another account await is refused: account_db_key cannot be NULL.
-- params: rows
-- returns:
-- rows: room_id, account_db_key, title, ai_persona, created_at, client_request_id, request_hash, title_version (0 when absent)
CREATE PROCEDURE fp_chat_room_batch_create(
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

    -- Every writer of a room first makes sure of its row and so locks it; in order of the key, against deadlocks.
    INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, deleted)
    SELECT n.room_id, MIN(n.account_db_key), '', '', '1970-01-01 00:00:00.000', '1970-01-01 00:00:00.000', 2
    FROM JSON_TABLE(p_rows, '$[*]' COLUMNS (
        room_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.room_id' ERROR ON ERROR,
        account_db_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.account_db_key' ERROR ON ERROR
    )) n
    GROUP BY n.room_id
    ORDER BY n.room_id
    ON DUPLICATE KEY UPDATE account_db_key = IF(
        chat_rooms.deleted = 2 AND chat_rooms.account_db_key <> VALUES(account_db_key), NULL, chat_rooms.account_db_key);

    -- Rooms are found, and locked, by their key only: a scan would lock those of others.
    UPDATE JSON_TABLE(p_rows, '$[*]' COLUMNS (
        room_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$.room_id' ERROR ON ERROR,
        account_db_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.account_db_key' ERROR ON ERROR,
        title VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.title' ERROR ON ERROR,
        ai_persona VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.ai_persona' ERROR ON ERROR,
        created_at VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.created_at' ERROR ON ERROR,
        client_request_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.client_request_id' ERROR ON ERROR,
        request_key VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$.client_request_id' ERROR ON ERROR,
        request_hash VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.request_hash' ERROR ON ERROR,
        title_version VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.title_version' ERROR ON ERROR
    )) n
    STRAIGHT_JOIN chat_rooms r FORCE INDEX (PRIMARY) ON r.room_id = n.room_id
    LEFT JOIN chat_rooms t ON t.account_db_key = CAST(n.account_db_key AS SIGNED) AND t.client_request_id = n.request_key
        AND t.room_id <> r.room_id
    SET r.title = n.title, r.ai_persona = n.ai_persona,
        r.title_version = COALESCE(CAST(n.title_version AS SIGNED), 0),
        r.created_at = LEFT(n.created_at, 23),
        r.last_message_at = GREATEST(r.last_message_at, CAST(LEFT(n.created_at, 23) AS DATETIME(3))),
        r.client_request_id = IF(t.room_id IS NULL, n.client_request_id, NULL),
        r.request_hash = IF(t.room_id IS NULL, n.request_hash, NULL), r.deleted = 0
    WHERE r.deleted = 2 AND r.account_db_key = CAST(n.account_db_key AS SIGNED);

    COMMIT;
END
