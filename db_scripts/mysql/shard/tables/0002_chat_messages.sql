-- Messages, and the tombstones of deleted ones. `created_at` is NULL only on a tombstone whose message never came.
-- `metadata` is text, not JSON: it comes back byte for byte.
CREATE TABLE IF NOT EXISTS chat_messages (
    room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    seq BIGINT NOT NULL,
    message_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    account_db_key BIGINT NOT NULL,
    sender_type VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL
        CHECK (sender_type IN ('USER', 'AI', 'SYSTEM')),
    content MEDIUMTEXT NOT NULL,
    parent_message_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    metadata MEDIUMTEXT NULL,
    created_at DATETIME(3) NULL,
    client_message_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    body_hash VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    deleted TINYINT NOT NULL DEFAULT 0,
    PRIMARY KEY (room_id, seq),
    UNIQUE KEY chat_messages_by_id (message_id),
    UNIQUE KEY chat_messages_by_client_id (room_id, client_message_id),
    KEY chat_messages_by_time (room_id, created_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
