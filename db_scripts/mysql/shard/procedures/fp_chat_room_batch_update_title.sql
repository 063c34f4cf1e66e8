-- purpose: fp_chat_room_update_title for many rooms, all or none. Of several titles of a room the newest counts.
-- params: rows
-- returns:
-- rows: room_id, account_db_key, title, title_version
CREATE PROCEDURE fp_chat_room_batch_update_title(
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

    -- Rooms are found, and locked, by their key only: a scan would lock those of others.
    UPDATE (
        SELECT t.room_id, t.account_db_key, t.title, CAST(t.title_version AS SIGNED) AS title_version,
               ROW_NUMBER() OVER (PARTITION BY t.room_id ORDER BY CAST(t.title_version AS SIGNED) DESC, t.ord) AS place
        FROM JSON_TABLE(p_rows, '$[*]' COLUMNS (
            ord FOR ORDINALITY,
            room_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$.room_id' ERROR ON ERROR,
            account_db_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.account_db_key' ERROR ON ERROR,
            title VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.title' ERROR ON ERROR,
            title_version VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.title_version' ERROR ON ERROR
        )) t
    ) n
    STRAIGHT_JOIN chat_rooms r FORCE INDEX (PRIMARY) ON r.room_id = n.room_id AND r.account_db_key = CAST(n.account_db_key AS SIGNED)
    SET r.title = n.title, r.title_version = n.title_version
    WHERE n.place = 1 AND r.deleted = 0 AND r.title_version < n.title_version;

    COMMIT;
END
