-- The shard databases there are. `account_count` decides where a new account goes.
CREATE TABLE shards (
    shard_id INTEGER NOT NULL PRIMARY KEY,
    database_name TEXT NOT NULL CHECK (length(database_name) <= 64),
    active INTEGER NOT NULL DEFAULT 1,
    account_count INTEGER NOT NULL DEFAULT 0
);
