-- purpose: The seq of the last message made strictly before a time (in the order of created_at).
-- params: room_id, before
-- returns: seq
-- Stored times are 23 characters: without its trailing zeros the parameter compares as a time does.
SELECT seq FROM chat_messages
WHERE room_id = :room_id AND created_at < rtrim(:before, '0')
ORDER BY created_at DESC, seq DESC LIMIT 1;
