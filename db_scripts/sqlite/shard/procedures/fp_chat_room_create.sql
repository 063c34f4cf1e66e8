-- purpose: Store a room unless it is there; a tombstone stays one. Messages that came before it are counted already.
--   A client_request_id that another room of the account has is refused.
--   So is a room that messages of another account await: account_db_key cannot be NULL.
-- params: room_id, account_db_key, title, ai_persona, created_at, client_request_id, request_hash
-- returns:
INSERT INTO chat_rooms (room_id, account_db_key, title, ai_persona, created_at, last_message_at, deleted)
VALUES (:room_id, :account_db_key, '', '', '1970-01-01 00:00:00.000', '1970-01-01 00:00:00.000', 2)
ON CONFLICT (room_id) DO UPDATE SET account_db_key = NULL
WHERE chat_rooms.deleted = 2 AND chat_rooms.account_db_key <> excluded.account_db_key;

UPDATE chat_rooms SET
    account_db_key = :account_db_key, title = :title, ai_persona = :ai_persona,
    created_at = substr(:created_at, 1, 23), last_message_at = MAX(last_message_at, substr(:created_at, 1, 23)),
    client_request_id = :client_request_id, request_hash = :request_hash, deleted = 0
WHERE room_id = :room_id AND deleted = 2;
