-- Sessions that were logged out, by the hash of their token, until no Redis can hold them any more.
CREATE TABLE IF NOT EXISTS ended_sessions (
    session_hash VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    expires_at DATETIME(3) NOT NULL,
    KEY ended_sessions_by_expiry (expires_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
