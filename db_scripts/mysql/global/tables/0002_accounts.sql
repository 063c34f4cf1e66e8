-- Accounts. `account_id` is the canonical form, compared byte by byte.
CREATE TABLE IF NOT EXISTS accounts (
    account_db_key BIGINT NOT NULL PRIMARY KEY AUTO_INCREMENT,
    account_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    password_hash VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    nickname VARCHAR(64) NULL,
    email VARCHAR(254) NULL,
    platform_type VARCHAR(32) NULL,
    created_at DATETIME(3) NOT NULL,
    UNIQUE KEY accounts_by_id (account_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
