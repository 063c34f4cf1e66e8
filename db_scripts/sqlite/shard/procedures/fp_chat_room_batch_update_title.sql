-- purpose: fp_chat_room_update_title for many rooms, all or none. Of several titles of a room the newest counts.
-- params: rows
-- returns:
-- rows: room_id, account_db_key, title, title_version
UPDATE chat_rooms SET (title, title_version) = (
    SELECT json_extract(n.value, '$.title'), json_extract(n.value, '$.title_version')
    FROM json_each(:rows) n
    WHERE json_extract(n.value, '$.room_id') = chat_rooms.room_id
      AND json_extract(n.value, '$.account_db_key') = chat_rooms.account_db_key
    ORDER BY json_extract(n.value, '$.title_version') DESC, n.key LIMIT 1)
WHERE deleted = 0 AND EXISTS (
    SELECT 1 FROM json_each(:rows) n
    WHERE json_extract(n.value, '$.room_id') = chat_rooms.room_id
      AND json_extract(n.value, '$.account_db_key') = chat_rooms.account_db_key
      AND json_extract(n.value, '$.title_version') > chat_rooms.title_version)
  AND room_id IN (SELECT json_extract(value, '$.room_id') FROM json_each(:rows));
