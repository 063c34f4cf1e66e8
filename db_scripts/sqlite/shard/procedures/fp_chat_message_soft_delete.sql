-- purpose: Make a message a tombstone for good, also where there is no row yet (then at `seq`). Content stays stored.
-- params: message_id, room_id, account_db_key, seq
-- returns:
INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, deleted)
VALUES (:room_id, :account_db_key, '', '', '1970-01-01 00:00:00.000', '1970-01-01 00:00:00.000', 2)
ON CONFLICT (room_id) DO NOTHING;

UPDATE chat_messages SET deleted = 1
WHERE message_id = :message_id AND room_id = :room_id AND account_db_key = :account_db_key AND deleted = 0;

UPDATE chat_rooms SET message_count = message_count - changes() WHERE room_id = :room_id;

INSERT INTO chat_messages (room_id, seq, message_id, account_db_key, sender_type, content, deleted)
SELECT :room_id, :seq, :message_id, :account_db_key, 'USER', '', 1
WHERE NOT EXISTS (SELECT 1 FROM chat_messages WHERE message_id = :message_id);

UPDATE chat_rooms SET last_seq = MAX(last_seq, COALESCE((SELECT MAX(seq) FROM chat_messages WHERE room_id = :room_id), 0))
WHERE room_id = :room_id;
