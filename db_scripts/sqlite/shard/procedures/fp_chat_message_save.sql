-- purpose: Store one message; seq NULL takes the room's next number. A message_id that is there (a tombstone too)
--   changes nothing and answers its stored seq. A taken (room_id, seq) or (room_id, client_message_id) is refused.
-- params: message_id, room_id, account_db_key, seq, sender_type, content, parent_message_id, metadata, created_at, client_message_id, body_hash
-- returns: seq
INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, deleted)
VALUES (:room_id, :account_db_key, '', '', '1970-01-01 00:00:00.000', '1970-01-01 00:00:00.000', 2)
ON CONFLICT (room_id) DO NOTHING;

INSERT INTO chat_messages (room_id, seq, message_id, account_db_key, sender_type, content, parent_message_id,
                           metadata, created_at, client_message_id, body_hash)
SELECT :room_id, COALESCE(:seq, last_seq + 1), :message_id, :account_db_key, :sender_type, :content,
       :parent_message_id, :metadata, COALESCE(substr(:created_at, 1, 23), ''), :client_message_id, :body_hash
FROM chat_rooms
WHERE room_id = :room_id AND NOT EXISTS (SELECT 1 FROM chat_messages WHERE message_id = :message_id);

UPDATE chat_rooms SET
    message_count = message_count + changes(),
    last_seq = MAX(last_seq, COALESCE((SELECT MAX(seq) FROM chat_messages WHERE room_id = :room_id), 0)),
    last_message_at = MAX(last_message_at, substr(:created_at, 1, 23))
WHERE room_id = :room_id;

SELECT seq FROM chat_messages WHERE message_id = :message_id;
