-- The shard databases there are. `account_count` decides where a new account goes.
CREATE TABLE IF NOT EXISTS shards (
    shard_id INT NOT NULL PRIMARY KEY,
    database_name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    active TINYINT NOT NULL DEFAULT 1,
    account_count BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
