-- purpose: fp_chat_message_save for many messages, all or none; every row has its seq. The first row may go on with the
--   parameters of fp_stream_mark_raise: the mark is raised in the same transaction, and answered.
-- params: rows
-- returns: mark
-- rows: message_id, room_id, account_db_key, seq, sender_type, content, parent_message_id, metadata, created_at, client_message_id, body_hash
-- Each row is an array in this order, the parameters of fp_chat_message_save: read by place, JSON takes half the time.
CREATE PROCEDURE fp_chat_message_batch_save(
    IN p_rows LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
)
MODIFIES SQL DATA
BEGIN
    DECLARE v_stream INT DEFAULT JSON_VALUE(p_rows, '$[0][11]');
    DECLARE v_known BIGINT DEFAULT JSON_VALUE(p_rows, '$[0][12]');
    DECLARE v_mark BIGINT DEFAULT JSON_VALUE(p_rows, '$[0][13]');
    -- Nearly always every row is new: the first attempt counts them as it locks their rooms, without a look
    -- for each. It gives up at the first that is not.
    DECLARE v_all_new BOOLEAN DEFAULT TRUE;
    DECLARE v_misplaced BIGINT;
    IF p_rows IS NULL OR LEFT(p_rows, 1) <> '[' OR NOT JSON_VALID(p_rows) THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'rows: not a JSON array';
    END IF;
    attempt: LOOP
    BEGIN
        DECLARE EXIT HANDLER FOR SQLEXCEPTION
        BEGIN
            ROLLBACK;
            RESIGNAL;
        END;
        -- NULL in a column that cannot be NULL.
        DECLARE EXIT HANDLER FOR 1048
        BEGIN
            ROLLBACK;
            IF NOT v_all_new THEN RESIGNAL; END IF;
            SET v_all_new = FALSE;
        END;
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        START TRANSACTION;

        -- Every writer of a room first makes sure of its row and so locks it, in order of the key, against
        -- deadlocks: from here on nobody else inserts or deletes messages of these rooms.
        INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, last_seq,
                                message_count, deleted)
        SELECT n.room_id, MIN(n.account_db_key), '', '', '1970-01-01 00:00:00.000',
               COALESCE(LEFT(MAX(n.created_at), 23), ''), MAX(CAST(n.seq AS SIGNED)),
               IF(v_all_new, COUNT(*), 0), 2
        FROM JSON_TABLE(p_rows, '$[*]' COLUMNS (
            room_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[1]' ERROR ON ERROR,
            account_db_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[2]' ERROR ON ERROR,
            seq VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[3]' ERROR ON ERROR,
            created_at VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[8]' ERROR ON ERROR
        )) n
        GROUP BY n.room_id
        ORDER BY n.room_id
        ON DUPLICATE KEY UPDATE
            message_count = message_count + VALUES(message_count),
            last_seq = GREATEST(last_seq, VALUES(last_seq)),
            last_message_at = GREATEST(last_message_at, VALUES(last_message_at));

        -- A reply that is not directly behind its stored question is refused: fp_chat_message_save knows
        -- where it belongs, and whether another stands in for it. message_count cannot be NULL.
        IF v_all_new THEN
            SELECT COUNT(*) INTO v_misplaced
            FROM JSON_TABLE(p_rows, '$[*]' COLUMNS (
                seq BIGINT PATH '$[3]' ERROR ON ERROR,
                sender_type VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$[4]' ERROR ON ERROR,
                parent_message_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$[6]' ERROR ON ERROR
            )) n
            STRAIGHT_JOIN chat_messages q ON q.message_id = n.parent_message_id
            WHERE n.sender_type = 'AI' AND q.seq <> n.seq - 1;
            IF v_misplaced > 0 THEN
                -- If it is stored itself, the second attempt leaves it where it is.
                SIGNAL SQLSTATE '23000' SET MYSQL_ERRNO = 1048;
            END IF;
        ELSE
            -- Rooms are found, and locked, by their key only: a scan would lock those of others.
            UPDATE (
                SELECT n.room_id, IF(COUNT(q.seq) = 0, COUNT(DISTINCT n.message_id), NULL) AS added
                FROM JSON_TABLE(p_rows, '$[*]' COLUMNS (
                    message_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$[0]' ERROR ON ERROR,
                    room_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$[1]' ERROR ON ERROR,
                    seq BIGINT PATH '$[3]' ERROR ON ERROR,
                    sender_type VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$[4]' ERROR ON ERROR,
                    parent_message_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin PATH '$[6]' ERROR ON ERROR
                )) n
                LEFT JOIN chat_messages m ON m.message_id = n.message_id
                LEFT JOIN chat_messages q ON q.message_id = n.parent_message_id
                    AND q.seq <> n.seq - 1 AND n.sender_type = 'AI'
                WHERE m.message_id IS NULL
                GROUP BY n.room_id
            ) a
            STRAIGHT_JOIN chat_rooms r FORCE INDEX (PRIMARY) ON r.room_id = a.room_id
            SET r.message_count = r.message_count + a.added;
        END IF;

        -- What is there under its own message_id (a tombstone too) stays as it is, in the second attempt.
        -- What takes another's seq or client id is refused: seq cannot be NULL.
        INSERT INTO chat_messages (room_id, seq, message_id, account_db_key, sender_type, content, parent_message_id,
                                   metadata, created_at, client_message_id, body_hash)
        SELECT n.room_id, n.seq, n.message_id, n.account_db_key, n.sender_type, n.content, n.parent_message_id,
               n.metadata, COALESCE(LEFT(n.created_at, 23), ''), n.client_message_id, n.body_hash
        FROM JSON_TABLE(p_rows, '$[*]' COLUMNS (
            message_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[0]' ERROR ON ERROR,
            room_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[1]' ERROR ON ERROR,
            account_db_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[2]' ERROR ON ERROR,
            seq VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[3]' ERROR ON ERROR,
            sender_type VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[4]' ERROR ON ERROR,
            content LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[5]' ERROR ON ERROR,
            parent_message_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[6]' ERROR ON ERROR,
            metadata LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[7]' ERROR ON ERROR,
            created_at VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[8]' ERROR ON ERROR,
            client_message_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[9]' ERROR ON ERROR,
            body_hash VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$[10]' ERROR ON ERROR
        )) n
        ON DUPLICATE KEY UPDATE seq = IF(
            NOT v_all_new AND chat_messages.message_id = VALUES(message_id), chat_messages.seq, NULL);

        IF v_stream IS NULL THEN
            COMMIT;
        ELSE
            INSERT INTO stream_marks (stream, mark) VALUES (v_stream, IF(v_known = 0, v_mark, 0))
            ON DUPLICATE KEY UPDATE mark = IF(mark >= v_known, GREATEST(mark, v_mark), mark);
            SELECT mark INTO v_mark FROM stream_marks WHERE stream = v_stream;
            COMMIT;
            SELECT v_mark AS mark;
        END IF;
        LEAVE attempt;
    END;
    END LOOP;
END
