-- Messages, and the tombstones of deleted ones. `created_at` is NULL only on a tombstone whose message never came.
CREATE TABLE chat_messages (
    room_id TEXT NOT NULL CHECK (length(room_id) <= 64 AND room_id NOT GLOB '*[^ -~]*'),
    seq INTEGER NOT NULL CHECK (typeof(seq) = 'integer'),
    message_id TEXT NOT NULL UNIQUE CHECK (length(message_id) <= 64 AND message_id NOT GLOB '*[^ -~]*'),
    account_db_key INTEGER NOT NULL CHECK (typeof(account_db_key) = 'integer'),
    sender_type TEXT NOT NULL CHECK (sender_type IN ('USER', 'AI', 'SYSTEM')),
    content TEXT NOT NULL CHECK (length(CAST(content AS BLOB)) <= 16777215),
    parent_message_id TEXT NULL CHECK (length(parent_message_id) <= 64 AND parent_message_id NOT GLOB '*[^ -~]*'),
    metadata TEXT NULL CHECK (length(CAST(metadata AS BLOB)) <= 16777215),
    created_at DATETIME NULL CHECK (created_at IS strftime('%Y-%m-%d %H:%M:%f', created_at, '+0 days')),
    client_message_id TEXT NULL CHECK (length(client_message_id) <= 64 AND client_message_id NOT GLOB '*[^ -~]*'),
    body_hash TEXT NULL CHECK (length(body_hash) <= 64 AND body_hash NOT GLOB '*[^ -~]*'),
    deleted INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (room_id, seq),
    UNIQUE (room_id, client_message_id)
);
CREATE INDEX chat_messages_by_time ON chat_messages (room_id, created_at);
