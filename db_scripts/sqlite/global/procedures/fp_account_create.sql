-- purpose: Create an account on the least-loaded active shard. An existing account_id changes nothing; created is 1
--   for the call that stored it, also when that call is repeated (password hashes are salted: an equal one is ours).
-- params: account_id, password_hash, nickname, email, platform_type
-- returns: created, account_db_key, shard_id
INSERT INTO accounts (account_id, password_hash, nickname, email, platform_type, created_at)
VALUES (:account_id, :password_hash, :nickname, :email, :platform_type, strftime('%Y-%m-%d %H:%M:%f', 'now'))
ON CONFLICT (account_id) DO NOTHING;

INSERT INTO account_shards (account_db_key, shard_id)
SELECT a.account_db_key,
       (SELECT shard_id FROM shards WHERE active = 1 ORDER BY account_count, shard_id LIMIT 1)
FROM accounts a
WHERE a.account_id = :account_id
  AND NOT EXISTS (SELECT 1 FROM account_shards s WHERE s.account_db_key = a.account_db_key);

UPDATE shards SET account_count = account_count + changes()
WHERE shard_id = (SELECT s.shard_id FROM account_shards s JOIN accounts a USING (account_db_key)
                  WHERE a.account_id = :account_id);

SELECT a.password_hash = :password_hash AS created, a.account_db_key, s.shard_id
FROM accounts a JOIN account_shards s USING (account_db_key)
WHERE a.account_id = :account_id;
