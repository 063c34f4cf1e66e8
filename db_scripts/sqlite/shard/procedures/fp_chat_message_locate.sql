-- purpose: Where a message is, for a caller that knows its id alone.
-- params: message_id
-- returns: room_id, account_db_key, seq, deleted
SELECT room_id, account_db_key, seq, deleted
FROM chat_messages
WHERE message_id = :message_id;
