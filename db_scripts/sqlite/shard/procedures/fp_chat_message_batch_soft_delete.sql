-- purpose: fp_chat_message_soft_delete for many messages, all or none.
-- params: rows
-- returns:
-- rows: message_id, room_id, account_db_key, seq
INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, deleted)
SELECT json_extract(value, '$.room_id'), json_extract(value, '$.account_db_key'), '', '',
       '1970-01-01 00:00:00.000', '1970-01-01 00:00:00.000', 2
FROM json_each(:rows)
WHERE true
ON CONFLICT (room_id) DO NOTHING;

UPDATE chat_rooms SET message_count = message_count - (
    SELECT COUNT(DISTINCT m.message_id)
    FROM json_each(:rows) n
    JOIN chat_messages m ON m.message_id = json_extract(n.value, '$.message_id')
        AND m.room_id = json_extract(n.value, '$.room_id')
        AND m.account_db_key = json_extract(n.value, '$.account_db_key')
    WHERE m.room_id = chat_rooms.room_id AND m.deleted = 0)
WHERE room_id IN (SELECT json_extract(value, '$.room_id') FROM json_each(:rows));

UPDATE chat_messages SET deleted = 1
WHERE deleted = 0
  AND (message_id, room_id, account_db_key) IN (
    SELECT json_extract(value, '$.message_id'), json_extract(value, '$.room_id'),
           json_extract(value, '$.account_db_key')
    FROM json_each(:rows));

-- Where another message has the seq, the tombstone takes the room's next.
INSERT INTO chat_messages (room_id, seq, message_id, account_db_key, sender_type, content, deleted)
SELECT json_extract(value, '$.room_id'),
       iif(EXISTS (SELECT 1 FROM chat_messages t
                   WHERE t.room_id = json_extract(value, '$.room_id') AND t.seq = json_extract(value, '$.seq')),
           (SELECT MAX(r.last_seq, (SELECT MAX(x.seq) FROM chat_messages x WHERE x.room_id = r.room_id)) + 1
            FROM chat_rooms r WHERE r.room_id = json_extract(value, '$.room_id')),
           json_extract(value, '$.seq')),
       json_extract(value, '$.message_id'),
       json_extract(value, '$.account_db_key'), 'USER', '', 1
FROM (SELECT value, MIN(key) AS first FROM json_each(:rows) GROUP BY json_extract(value, '$.message_id'))
WHERE NOT EXISTS (SELECT 1 FROM chat_messages WHERE message_id = json_extract(value, '$.message_id'))
ORDER BY first;

UPDATE chat_rooms SET last_seq = MAX(last_seq, COALESCE((
    SELECT MAX(seq) FROM chat_messages m WHERE m.room_id = chat_rooms.room_id), 0))
WHERE room_id IN (SELECT json_extract(value, '$.room_id') FROM json_each(:rows));
