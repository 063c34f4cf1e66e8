-- purpose: Whether a room has a message, and where.
-- params: room_id, message_id
-- returns: message_id, seq, sender_type, deleted
SELECT message_id, seq, sender_type, deleted
FROM chat_messages
WHERE message_id = :message_id AND room_id = :room_id;
