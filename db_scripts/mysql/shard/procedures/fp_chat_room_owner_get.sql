-- purpose: Whose a room is, also one that its messages await (deleted = 2).
-- params: room_id
-- returns: account_db_key, deleted
CREATE PROCEDURE fp_chat_room_owner_get(
    IN p_room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin
)
READS SQL DATA
SELECT account_db_key, deleted
FROM chat_rooms
WHERE room_id = p_room_id
