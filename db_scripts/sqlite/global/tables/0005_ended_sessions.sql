-- Sessions that were logged out, by the hash of their token, until no Redis can hold them any more.
CREATE TABLE ended_sessions (
    session_hash TEXT NOT NULL PRIMARY KEY CHECK (length(session_hash) <= 64 AND session_hash NOT GLOB '*[^ -~]*'),
    expires_at DATETIME NOT NULL CHECK (expires_at IS strftime('%Y-%m-%d %H:%M:%f', expires_at, '+0 days'))
);
CREATE INDEX ended_sessions_by_expiry ON ended_sessions (expires_at);
