-- purpose: fp_chat_room_create for many rooms, all or none. A title_version of -1 marks a title that nobody gave.
--   Where another room has the client_request_id, this one is stored without: a Redis that lost the other gave it twice.
--   One that messages of another account await is refused: account_db_key cannot be NULL.
-- params: rows
-- returns:
-- rows: room_id, account_db_key, title, ai_persona, created_at, client_request_id, request_hash, title_version (0 when absent)
INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, deleted)
SELECT json_extract(value, '$.room_id'), json_extract(value, '$.account_db_key'), '', '',
       '1970-01-01 00:00:00.000', '1970-01-01 00:00:00.000', 2
FROM json_each(:rows)
WHERE true
ON CONFLICT (room_id) DO UPDATE SET account_db_key = NULL
WHERE chat_rooms.deleted = 2 AND chat_rooms.account_db_key <> excluded.account_db_key;

UPDATE chat_rooms SET
    (account_db_key, title, title_version, ai_persona, created_at, last_message_at, client_request_id, request_hash,
     deleted) = (
    SELECT json_extract(n.value, '$.account_db_key'), json_extract(n.value, '$.title'),
           COALESCE(json_extract(n.value, '$.title_version'), 0),
           json_extract(n.value, '$.ai_persona'), substr(json_extract(n.value, '$.created_at'), 1, 23),
           MAX(chat_rooms.last_message_at, substr(json_extract(n.value, '$.created_at'), 1, 23)),
           iif(t.room_id IS NULL, json_extract(n.value, '$.client_request_id'), NULL),
           iif(t.room_id IS NULL, json_extract(n.value, '$.request_hash'), NULL), 0
    FROM json_each(:rows) n
    LEFT JOIN chat_rooms t ON t.account_db_key = json_extract(n.value, '$.account_db_key')
        AND t.client_request_id = json_extract(n.value, '$.client_request_id') AND t.room_id <> chat_rooms.room_id
    WHERE json_extract(n.value, '$.room_id') = chat_rooms.room_id
    ORDER BY n.key LIMIT 1)
WHERE deleted = 2 AND room_id IN (SELECT json_extract(value, '$.room_id') FROM json_each(:rows));
