-- The mapping: which shard holds an account's rooms and messages.
CREATE TABLE account_shards (
    account_db_key INTEGER NOT NULL PRIMARY KEY,
    shard_id INTEGER NOT NULL
);
