-- purpose: The room that a client_request_id of this account made.
-- params: account_db_key, client_request_id
-- returns: room_id, request_hash, deleted
SELECT room_id, request_hash, deleted
FROM chat_rooms
WHERE account_db_key = :account_db_key AND client_request_id = :client_request_id;
