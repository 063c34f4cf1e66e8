-- purpose: Make a room a tombstone permanently, also where there is no row yet. Another account's room stays; one that
--   its messages await is refused: deleted cannot be NULL.
-- params: room_id, account_db_key
-- returns:
CREATE PROCEDURE fp_chat_room_soft_delete(
    IN p_room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_account_db_key BIGINT
)
MODIFIES SQL DATA
INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, deleted)
VALUES (p_room_id, p_account_db_key, '', '', '1970-01-01 00:00:00.000', '1970-01-01 00:00:00.000', 1)
ON DUPLICATE KEY UPDATE deleted = IF(
    chat_rooms.account_db_key = VALUES(account_db_key), 1, IF(chat_rooms.deleted = 2, NULL, chat_rooms.deleted))
