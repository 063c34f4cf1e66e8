-- The mapping: which shard holds an account's rooms and messages.
CREATE TABLE IF NOT EXISTS account_shards (
    account_db_key BIGINT NOT NULL PRIMARY KEY,
    shard_id INT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
