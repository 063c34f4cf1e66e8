-- Rooms. `deleted`: 0 live, 1 tombstone (for good), 2 awaited (its messages came before the room itself: the row
-- only holds the counters and is invisible). The counters change only in the transaction that really inserts or
-- really deletes messages, with this row locked.
CREATE TABLE IF NOT EXISTS chat_rooms (
    room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    account_db_key BIGINT NOT NULL,
    title VARCHAR(200) NOT NULL,
    title_version INT NOT NULL DEFAULT 0,
    ai_persona VARCHAR(64) NOT NULL,
    created_at DATETIME(3) NOT NULL,
    last_message_at DATETIME(3) NOT NULL,
    last_seq BIGINT NOT NULL DEFAULT 0,
    message_count BIGINT NOT NULL DEFAULT 0,
    deleted TINYINT NOT NULL DEFAULT 0,
    client_request_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    request_hash VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
    UNIQUE KEY chat_rooms_by_request (account_db_key, client_request_id),
    KEY chat_rooms_by_activity (account_db_key, deleted, last_message_at, room_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
