-- purpose: Make a message a tombstone for good, also where there is no row yet (then at `seq`). Content stays stored.
-- params: message_id, room_id, account_db_key, seq
-- returns:
CREATE PROCEDURE fp_chat_message_soft_delete(
    IN p_message_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_account_db_key BIGINT,
    IN p_seq BIGINT
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
    ON DUPLICATE KEY UPDATE room_id = chat_rooms.room_id;

    UPDATE chat_messages SET deleted = 1
    WHERE message_id = p_message_id AND room_id = p_room_id AND account_db_key = p_account_db_key AND deleted = 0;
    UPDATE chat_rooms SET message_count = message_count - ROW_COUNT() WHERE room_id = p_room_id;

    IF NOT EXISTS (SELECT 1 FROM chat_messages WHERE message_id = p_message_id) THEN
        INSERT INTO chat_messages (room_id, seq, message_id, account_db_key, sender_type, content, deleted)
        VALUES (p_room_id, p_seq, p_message_id, p_account_db_key, 'USER', '', 1);
        UPDATE chat_rooms SET last_seq = GREATEST(last_seq, p_seq) WHERE room_id = p_room_id;
    END IF;

    COMMIT;
END
