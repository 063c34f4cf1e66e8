-- purpose: fp_chat_message_save for many messages, all or none; every row has its seq. The first row may go on with the
--   parameters of fp_stream_mark_raise: the mark is raised in the same transaction, and answered.
-- params: rows
-- returns: mark
-- rows: message_id, room_id, account_db_key, seq, sender_type, content, parent_message_id, metadata, created_at, client_message_id, body_hash
-- Each row is an array in this order, the parameters of fp_chat_message_save.
INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, deleted)
SELECT json_extract(value, '$[1]'), json_extract(value, '$[2]'), '', '',
       '1970-01-01 00:00:00.000', '1970-01-01 00:00:00.000', 2
FROM json_each(:rows)
WHERE true
ON CONFLICT (room_id) DO NOTHING;

UPDATE chat_rooms SET (message_count, last_seq, last_message_at) = (
    SELECT chat_rooms.message_count
               + COUNT(DISTINCT CASE WHEN m.message_id IS NULL THEN json_extract(n.value, '$[0]') END),
           MAX(chat_rooms.last_seq, MAX(json_extract(n.value, '$[3]'))),
           MAX(chat_rooms.last_message_at, substr(MAX(json_extract(n.value, '$[8]')), 1, 23))
    FROM json_each(:rows) n
    LEFT JOIN chat_messages m ON m.message_id = json_extract(n.value, '$[0]')
    WHERE json_extract(n.value, '$[1]') = chat_rooms.room_id)
WHERE room_id IN (SELECT json_extract(value, '$[1]') FROM json_each(:rows));

INSERT INTO chat_messages (room_id, seq, message_id, account_db_key, sender_type, content, parent_message_id,
                           metadata, created_at, client_message_id, body_hash)
SELECT json_extract(value, '$[1]'),
       -- A reply that is not directly behind its stored question is refused: fp_chat_message_save knows where it belongs,
       -- and whether another stands in for it. seq cannot be NULL.
       iif(json_extract(value, '$[4]') = 'AI' AND EXISTS (
               SELECT 1 FROM chat_messages q
               WHERE q.message_id = json_extract(value, '$[6]') AND q.seq <> json_extract(value, '$[3]') - 1),
           NULL, json_extract(value, '$[3]')),
       json_extract(value, '$[0]'), json_extract(value, '$[2]'), json_extract(value, '$[4]'),
       json_extract(value, '$[5]'), json_extract(value, '$[6]'),
       json_extract(value, '$[7]'), COALESCE(substr(json_extract(value, '$[8]'), 1, 23), ''),
       json_extract(value, '$[9]'), json_extract(value, '$[10]')
FROM (SELECT value, MIN(key) AS first FROM json_each(:rows) GROUP BY json_extract(value, '$[0]'))
WHERE NOT EXISTS (
    -- One that is stored under another number is refused: fp_chat_message_save says which.
    SELECT 1 FROM chat_messages m
    WHERE m.message_id = json_extract(value, '$[0]')
      AND (m.seq = json_extract(value, '$[3]') OR NOT EXISTS (
          SELECT 1 FROM chat_messages t
          WHERE t.room_id = json_extract(value, '$[1]') AND t.seq = json_extract(value, '$[3]'))))
ORDER BY first;

INSERT INTO stream_marks (stream, mark)
SELECT json_extract(:rows, '$[0][11]'),
       iif(json_extract(:rows, '$[0][12]') = 0, json_extract(:rows, '$[0][13]'), 0)
WHERE json_extract(:rows, '$[0][11]') IS NOT NULL
ON CONFLICT (stream) DO UPDATE
SET mark = iif(mark >= json_extract(:rows, '$[0][12]'), MAX(mark, json_extract(:rows, '$[0][13]')), mark);

SELECT mark FROM stream_marks WHERE stream = json_extract(:rows, '$[0][11]');
