-- purpose: Whose a room is, also one that its messages await (deleted = 2).
-- params: room_id
-- returns: account_db_key, deleted
SELECT account_db_key, deleted
FROM chat_rooms
WHERE room_id = :room_id;
