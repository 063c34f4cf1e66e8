-- purpose: Store one message; seq NULL takes the room's next number. A message_id that is there (a tombstone too)
--   changes nothing and answers its stored seq. Where another message has the seq, or a reply's
--   seq is before its question (whose own was taken), a reply goes directly after its question if that number is free;
--   anything else takes the room's next, behind the place of a reply that is still to come (a message deleted before it
--   was saved has no created_at: it may be that reply). Where another message has the client_message_id, this one is
--   stored without: a Redis that lost the other gave both to this one.
--   A stand-in (of a reply that Redis and its process lost: empty, interrupted, its id begins as its question's) is not
--   stored beside another reply to its question; one that is stored makes way for the reply when that comes after all.
--   A room that messages of another account await takes none: account_db_key cannot be NULL.
-- params: message_id, room_id, account_db_key, seq, sender_type, content, parent_message_id, metadata, created_at, client_message_id, body_hash
-- returns: seq
INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, deleted)
VALUES (:room_id, :account_db_key, '', '', '1970-01-01 00:00:00.000', '1970-01-01 00:00:00.000', 2)
ON CONFLICT (room_id) DO UPDATE SET account_db_key = NULL
WHERE chat_rooms.deleted = 2 AND chat_rooms.account_db_key <> excluded.account_db_key;

UPDATE chat_messages
SET message_id = :message_id, content = :content, metadata = :metadata,
    created_at = COALESCE(substr(:created_at, 1, 23), '')
WHERE room_id = :room_id
  AND seq = (
    SELECT m.seq FROM chat_messages m
    WHERE m.room_id = :room_id AND m.seq > (
        SELECT q.seq FROM chat_messages q WHERE q.message_id = :parent_message_id AND q.room_id = :room_id)
      AND m.parent_message_id = :parent_message_id AND m.sender_type = 'AI' AND m.content = '' AND m.deleted = 0
      AND substr(m.message_id, 1, 19) = substr(:parent_message_id, 1, 19)
      AND m.metadata LIKE '%"finish_reason":"interrupted"%'
    LIMIT 1)
  AND :seq IS NOT NULL AND :sender_type = 'AI'
  AND NOT COALESCE(:content = '' AND substr(:message_id, 1, 19) = substr(:parent_message_id, 1, 19)
                   AND :metadata LIKE '%"finish_reason":"interrupted"%', 0)
  AND NOT EXISTS (SELECT 1 FROM chat_messages WHERE message_id = :message_id);

INSERT INTO chat_messages (room_id, seq, message_id, account_db_key, sender_type, content, parent_message_id,
                           metadata, created_at, client_message_id, body_hash)
SELECT :room_id, w.seq, :message_id, :account_db_key, :sender_type, :content,
       :parent_message_id, :metadata, COALESCE(substr(:created_at, 1, 23), ''),
       iif(t.seq IS NULL, :client_message_id, NULL), iif(t.seq IS NULL, :body_hash, NULL)
FROM (
    SELECT iif(:sender_type = 'AI' AND EXISTS (
               SELECT 1 FROM chat_messages q
               WHERE q.message_id = :parent_message_id AND q.room_id = :room_id AND q.seq >= :seq),
               NULL, :seq) AS seq, 1 AS place
    UNION ALL
    SELECT seq + 1, 2 FROM chat_messages
    WHERE message_id = :parent_message_id AND room_id = :room_id AND :seq IS NOT NULL
    UNION ALL
    SELECT MAX(r.last_seq, COALESCE((SELECT MAX(m.seq) FROM chat_messages m WHERE m.room_id = :room_id), 0)) + 1
           + COALESCE((SELECT :seq IS NOT NULL AND m.sender_type = 'USER' AND m.created_at IS NOT NULL
                              AND m.message_id IS NOT :parent_message_id
                       FROM chat_messages m WHERE m.room_id = :room_id ORDER BY m.seq DESC LIMIT 1), 0), 3
    FROM chat_rooms r WHERE r.room_id = :room_id
) w
LEFT JOIN chat_messages t ON t.room_id = :room_id AND t.client_message_id = :client_message_id
WHERE w.seq IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM chat_messages m WHERE m.room_id = :room_id AND m.seq = w.seq)
  AND NOT EXISTS (SELECT 1 FROM chat_messages WHERE message_id = :message_id)
  AND NOT (COALESCE(:seq IS NOT NULL AND :sender_type = 'AI' AND :content = ''
                    AND substr(:message_id, 1, 19) = substr(:parent_message_id, 1, 19)
                    AND :metadata LIKE '%"finish_reason":"interrupted"%', 0)
           AND EXISTS (
               SELECT 1 FROM chat_messages m
               WHERE m.room_id = :room_id AND m.seq > (
                   SELECT q.seq FROM chat_messages q WHERE q.message_id = :parent_message_id AND q.room_id = :room_id)
                 AND m.parent_message_id = :parent_message_id AND m.sender_type = 'AI'))
ORDER BY w.place
LIMIT 1;

UPDATE chat_rooms SET
    message_count = message_count + changes(),
    last_seq = MAX(last_seq, COALESCE((SELECT MAX(seq) FROM chat_messages WHERE room_id = :room_id), 0)),
    last_message_at = MAX(last_message_at, substr(:created_at, 1, 23))
WHERE room_id = :room_id;

SELECT COALESCE((SELECT seq FROM chat_messages WHERE message_id = :message_id), 0) AS seq;
