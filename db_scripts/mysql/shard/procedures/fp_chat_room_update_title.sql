-- purpose: Rename a live room, if title_version is newer than the stored one.
-- params: room_id, account_db_key, title, title_version
-- returns:
CREATE PROCEDURE fp_chat_room_update_title(
    IN p_room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_account_db_key BIGINT,
    IN p_title VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_title_version INT
)
MODIFIES SQL DATA
UPDATE chat_rooms SET title = p_title, title_version = p_title_version
WHERE room_id = p_room_id AND account_db_key = p_account_db_key AND deleted = 0 AND title_version < p_title_version
