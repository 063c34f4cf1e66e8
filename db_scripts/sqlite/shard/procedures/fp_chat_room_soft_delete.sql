-- purpose: Make a room a tombstone permanently, also where there is no row yet. Another account's room stays; one that
--   its messages await is refused: deleted cannot be NULL.
-- params: room_id, account_db_key
-- returns:
INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, deleted)
VALUES (:room_id, :account_db_key, '', '', '1970-01-01 00:00:00.000', '1970-01-01 00:00:00.000', 1)
ON CONFLICT (room_id) DO UPDATE
SET deleted = iif(chat_rooms.account_db_key = excluded.account_db_key, 1, NULL)
WHERE chat_rooms.account_db_key = excluded.account_db_key OR chat_rooms.deleted = 2;
