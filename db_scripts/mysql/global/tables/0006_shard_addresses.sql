-- Where a shard's server is, if not where the server's own configuration says: so a shard can be added on another host,
-- or moved to one, while servers run.
CREATE TABLE IF NOT EXISTS shard_addresses (
    shard_id INT NOT NULL PRIMARY KEY,
    host VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NULL,
    port INT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
