-- Accounts. `account_id` is the canonical form, compared byte by byte.
CREATE TABLE accounts (
    account_db_key INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    account_id TEXT NOT NULL UNIQUE CHECK (length(account_id) <= 64 AND account_id NOT GLOB '*[^ -~]*'),
    password_hash TEXT NOT NULL CHECK (length(password_hash) <= 255),
    nickname TEXT NULL CHECK (length(nickname) <= 64),
    email TEXT NULL CHECK (length(email) <= 254),
    platform_type TEXT NULL CHECK (length(platform_type) <= 32),
    created_at DATETIME NOT NULL CHECK (created_at IS strftime('%Y-%m-%d %H:%M:%f', created_at, '+0 days'))
);
