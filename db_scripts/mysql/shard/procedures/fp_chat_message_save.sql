-- purpose: Store one message; seq NULL takes the room's next number. A message_id that is there (a tombstone too)
--   changes nothing and answers its stored seq. Where another message has the seq, or a reply's
--   seq is before its question (whose own was taken), a reply goes directly after its question if that number is free;
--   anything else takes the room's next, behind the place of a reply that is still to come (a message deleted before it
--   was saved has no created_at: it may be that reply). Where another message has the client_message_id, this one is
--   stored without: a Redis that lost the other gave both to this one.
--   A stand-in (of a reply that Redis and its process lost: empty, interrupted, its id begins as its question's) is not
--   stored beside another reply to its question; one that is stored makes way for the reply when that comes after all.
--   A room that messages of another account await takes none: account_db_key cannot be NULL.
-- params: message_id, room_id, account_db_key, seq, sender_type, content, parent_message_id, metadata, created_at, client_message_id, body_hash
-- returns: seq
CREATE PROCEDURE fp_chat_message_save(
    IN p_message_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_account_db_key BIGINT,
    IN p_seq BIGINT,
    IN p_sender_type VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_content LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_parent_message_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_metadata LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_created_at VARCHAR(26) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_client_message_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_body_hash VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin
)
MODIFIES SQL DATA
BEGIN
    DECLARE v_seq BIGINT;
    DECLARE v_question BIGINT;
    DECLARE v_is_reply BOOLEAN
        DEFAULT p_seq IS NOT NULL AND p_sender_type = 'AI' AND p_parent_message_id IS NOT NULL;
    DECLARE v_is_stand_in BOOLEAN
        DEFAULT v_is_reply AND p_content = '' AND LEFT(p_message_id, 19) = LEFT(p_parent_message_id, 19)
                AND p_metadata LIKE '%"finish_reason":"interrupted"%';
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

    SELECT seq INTO v_seq FROM chat_messages WHERE message_id = p_message_id;
    IF v_seq IS NULL AND v_is_reply THEN
        SELECT seq INTO v_question FROM chat_messages WHERE message_id = p_parent_message_id AND room_id = p_room_id;
        IF v_is_stand_in THEN
            IF EXISTS (SELECT 1 FROM chat_messages
                       WHERE room_id = p_room_id AND seq > v_question AND parent_message_id = p_parent_message_id
                         AND sender_type = 'AI') THEN
                SET v_seq = 0;
            END IF;
        ELSE
            SELECT seq INTO v_seq FROM chat_messages
            WHERE room_id = p_room_id AND seq > v_question AND parent_message_id = p_parent_message_id
              AND sender_type = 'AI' AND content = '' AND deleted = 0
              AND LEFT(message_id, 19) = LEFT(p_parent_message_id, 19)
              AND metadata LIKE '%"finish_reason":"interrupted"%'
            LIMIT 1;
            UPDATE chat_messages
            SET message_id = p_message_id, content = p_content, metadata = p_metadata,
                created_at = COALESCE(LEFT(p_created_at, 23), '')
            WHERE room_id = p_room_id AND seq = v_seq;
        END IF;
    END IF;
    IF v_seq IS NULL THEN
        SELECT w.seq INTO v_seq
        FROM (
            SELECT IF(v_question >= p_seq, NULL, p_seq) AS seq, 1 AS place
            UNION ALL
            SELECT seq + 1, 2 FROM chat_messages
            WHERE message_id = p_parent_message_id AND room_id = p_room_id AND p_seq IS NOT NULL
            UNION ALL
            SELECT GREATEST(r.last_seq, COALESCE((SELECT MAX(m.seq) FROM chat_messages m WHERE m.room_id = p_room_id), 0))
                   + 1 + COALESCE((SELECT p_seq IS NOT NULL AND m.sender_type = 'USER' AND m.created_at IS NOT NULL
                                          AND NOT m.message_id <=> p_parent_message_id
                                   FROM chat_messages m WHERE m.room_id = p_room_id ORDER BY m.seq DESC LIMIT 1), 0), 3
            FROM chat_rooms r WHERE r.room_id = p_room_id
        ) w
        WHERE w.seq IS NOT NULL
          AND NOT EXISTS (SELECT 1 FROM chat_messages m WHERE m.room_id = p_room_id AND m.seq = w.seq)
        ORDER BY w.place
        LIMIT 1;
        IF EXISTS (SELECT 1 FROM chat_messages
                   WHERE room_id = p_room_id AND client_message_id = p_client_message_id) THEN
            SET p_client_message_id = NULL, p_body_hash = NULL;
        END IF;
        INSERT INTO chat_messages (room_id, seq, message_id, account_db_key, sender_type, content, parent_message_id,
                                   metadata, created_at, client_message_id, body_hash)
        VALUES (p_room_id, v_seq, p_message_id, p_account_db_key, p_sender_type, p_content, p_parent_message_id,
                p_metadata, COALESCE(LEFT(p_created_at, 23), ''), p_client_message_id, p_body_hash);
        UPDATE chat_rooms SET message_count = message_count + 1, last_seq = GREATEST(last_seq, v_seq)
        WHERE room_id = p_room_id;
    END IF;
    UPDATE chat_rooms SET
        last_message_at = GREATEST(last_message_at, CAST(LEFT(p_created_at, 23) AS DATETIME(3)))
    WHERE room_id = p_room_id;

    COMMIT;
    SELECT v_seq AS seq;
END
