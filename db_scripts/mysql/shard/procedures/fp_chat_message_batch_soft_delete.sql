-- purpose: fp_chat_message_soft_delete for many messages, all or none.
-- params: rows
-- returns:
-- rows: message_id, room_id, account_db_key, seq
CREATE PROCEDURE fp_chat_message_batch_soft_delete(
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
    ON DUPLICATE KEY UPDATE room_id = chat_rooms.room_id;

    -- Rooms are found, and locked, by their key only: a scan would lock those of others.
    UPDATE (
        SELECT n.room_id, COUNT(DISTINCT m.message_id) AS flipped, MAX(CAST(n.seq AS SIGNED)) AS last_seq
        FROM JSON_TABLE(p_rows, '$[*]' COLUMNS (
            room_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$.room_id' ERROR ON ERROR,
            message_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$.message_id' ERROR ON ERROR,
            account_db_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.account_db_key' ERROR ON ERROR,
            seq VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.seq' ERROR ON ERROR
        )) n
        LEFT JOIN chat_messages m
            ON m.message_id = n.message_id AND m.room_id = n.room_id
                AND m.account_db_key = CAST(n.account_db_key AS SIGNED) AND m.deleted = 0
        GROUP BY n.room_id
    ) a
    STRAIGHT_JOIN chat_rooms r FORCE INDEX (PRIMARY) ON r.room_id = a.room_id
    SET r.message_count = r.message_count - a.flipped, r.last_seq = GREATEST(r.last_seq, COALESCE(a.last_seq, 0));

    UPDATE JSON_TABLE(p_rows, '$[*]' COLUMNS (
        room_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$.room_id' ERROR ON ERROR,
        message_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$.message_id' ERROR ON ERROR,
        account_db_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.account_db_key' ERROR ON ERROR
    )) n
    STRAIGHT_JOIN chat_messages m
        ON m.message_id = n.message_id AND m.room_id = n.room_id AND m.account_db_key = CAST(n.account_db_key AS SIGNED)
    SET m.deleted = 1
    WHERE m.deleted = 0;

    -- Where another message has the seq, the tombstone takes the room's next.
    INSERT INTO chat_messages (room_id, seq, message_id, account_db_key, sender_type, content, deleted)
    SELECT n.room_id, COALESCE(f.free_seq, n.seq), n.message_id, n.account_db_key, 'USER', '', 1
    FROM JSON_TABLE(p_rows, '$[*]' COLUMNS (
        ord FOR ORDINALITY,
        room_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.room_id' ERROR ON ERROR,
        message_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.message_id' ERROR ON ERROR,
        account_db_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.account_db_key' ERROR ON ERROR,
        seq VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$.seq' ERROR ON ERROR
    )) n
    JOIN (
        SELECT MIN(i.ord) AS ord,
               MAX(IF(t.seq IS NULL, NULL, GREATEST(r.last_seq, (
                   SELECT MAX(x.seq) FROM chat_messages x WHERE x.room_id = i.room_id)) + 1)) AS free_seq
        FROM JSON_TABLE(p_rows, '$[*]' COLUMNS (
            ord FOR ORDINALITY,
            room_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$.room_id' ERROR ON ERROR,
            message_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$.message_id' ERROR ON ERROR,
            seq VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$.seq' ERROR ON ERROR
        )) i
        LEFT JOIN chat_messages m ON m.message_id = i.message_id
        LEFT JOIN chat_messages t ON t.room_id = i.room_id AND t.seq = CAST(i.seq AS SIGNED)
        JOIN chat_rooms r ON r.room_id = i.room_id
        WHERE m.message_id IS NULL
        GROUP BY i.message_id
    ) f ON f.ord = n.ord;

    COMMIT;
END
