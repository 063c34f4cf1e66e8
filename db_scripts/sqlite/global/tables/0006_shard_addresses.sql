-- Where a shard's server is: always NULL here, for SQLite's shards are files.
CREATE TABLE IF NOT EXISTS shard_addresses (
    shard_id INTEGER NOT NULL PRIMARY KEY,
    host TEXT NULL,
    port INTEGER NULL
) STRICT;
