-- purpose: The shard that holds an account's data.
-- params: account_db_key
-- returns: shard_id
SELECT shard_id FROM account_shards WHERE account_db_key = :account_db_key;
