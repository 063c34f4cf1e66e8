-- purpose: fp_chat_room_soft_delete for many rooms, all or none. Another account's room stays; one that
--   its messages await is refused: deleted cannot be NULL.
-- params: rows
-- returns:
-- rows: room_id, account_db_key
INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, deleted)
SELECT json_extract(value, '$.room_id'), json_extract(value, '$.account_db_key'), '', '',
       '1970-01-01 00:00:00.000', '1970-01-01 00:00:00.000', 1
FROM json_each(:rows)
WHERE true
ON CONFLICT (room_id) DO UPDATE
SET deleted = iif(chat_rooms.account_db_key = excluded.account_db_key, 1, NULL)
WHERE chat_rooms.account_db_key = excluded.account_db_key OR chat_rooms.deleted = 2;
