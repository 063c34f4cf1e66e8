-- Rooms. `deleted`: 0 live, 1 tombstone (for good), 2 awaited (its messages came before the room itself: the row
-- only holds the counters and is invisible). The counters change only in the transaction that really inserts or
-- really deletes messages, with this row locked.
CREATE TABLE chat_rooms (
    room_id TEXT NOT NULL PRIMARY KEY CHECK (length(room_id) <= 64 AND room_id NOT GLOB '*[^ -~]*'),
    account_db_key INTEGER NOT NULL CHECK (typeof(account_db_key) = 'integer'),
    title TEXT NOT NULL CHECK (length(title) <= 200),
    title_version INTEGER NOT NULL DEFAULT 0 CHECK (typeof(title_version) = 'integer'),
    ai_persona TEXT NOT NULL CHECK (length(ai_persona) <= 64),
    created_at DATETIME NOT NULL CHECK (created_at IS strftime('%Y-%m-%d %H:%M:%f', created_at, '+0 days')),
    last_message_at DATETIME NOT NULL,
    last_seq INTEGER NOT NULL DEFAULT 0,
    message_count INTEGER NOT NULL DEFAULT 0,
    deleted INTEGER NOT NULL DEFAULT 0,
    client_request_id TEXT NULL CHECK (length(client_request_id) <= 64 AND client_request_id NOT GLOB '*[^ -~]*'),
    request_hash TEXT NULL CHECK (length(request_hash) <= 64 AND request_hash NOT GLOB '*[^ -~]*'),
    UNIQUE (account_db_key, client_request_id)
);
CREATE INDEX chat_rooms_by_activity ON chat_rooms (account_db_key, deleted, last_message_at, room_id);
