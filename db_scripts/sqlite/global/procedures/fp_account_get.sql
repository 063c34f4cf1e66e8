-- purpose: One account by its canonical id, with its shard; NULL when this database lost the mapping.
-- params: account_id
-- returns: account_db_key, account_id, password_hash, nickname, email, platform_type, created_at, shard_id
SELECT a.account_db_key, a.account_id, a.password_hash, a.nickname, a.email, a.platform_type, a.created_at, s.shard_id
FROM accounts a LEFT JOIN account_shards s USING (account_db_key)
WHERE a.account_id = :account_id;
