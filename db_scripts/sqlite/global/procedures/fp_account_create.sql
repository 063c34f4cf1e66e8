-- purpose: Create an account on the least-loaded active shard. An existing account_id changes nothing; created is 1
--   for the call that stored it, also when that call is repeated (password hashes are salted: an equal one is ours).
--   The key is drawn from 2^52 to 2^53 - 1, so that a database that comes back older never gives one again: above
--   every key that an earlier version counted, and exact as a double in Lua and JavaScript. A key that is taken is
--   drawn again. Only a new account gets a shard: where an older one without a mapping has its rooms nobody knows here.
-- params: account_id, password_hash, nickname, email, platform_type
-- returns: created, account_db_key, shard_id, mark
INSERT INTO accounts (account_db_key, account_id, password_hash, nickname, email, platform_type, created_at)
WITH RECURSIVE draws (n, drawn) AS (
    SELECT 1, 4503599627370496 + (random() & 4503599627370495)
    UNION ALL
    SELECT n + 1, 4503599627370496 + (random() & 4503599627370495) FROM draws WHERE n < 1000
)
SELECT drawn, :account_id, :password_hash, :nickname, :email, :platform_type, strftime('%Y-%m-%d %H:%M:%f', 'now')
FROM draws
WHERE NOT EXISTS (SELECT 1 FROM accounts a WHERE a.account_db_key = drawn)
LIMIT 1
ON CONFLICT (account_id) DO NOTHING;

INSERT INTO account_shards (account_db_key, shard_id)
SELECT a.account_db_key,
       (SELECT shard_id FROM shards WHERE active = 1 ORDER BY account_count, shard_id LIMIT 1)
FROM accounts a
WHERE a.account_id = :account_id AND changes() = 1;

INSERT INTO database_mark (id, number, generation)
SELECT 1, 1, 0 WHERE changes() = 1
ON CONFLICT (id) DO UPDATE SET number = number + 1;

UPDATE shards SET account_count = account_count + changes()
WHERE shard_id = (SELECT s.shard_id FROM account_shards s JOIN accounts a USING (account_db_key)
                  WHERE a.account_id = :account_id);

SELECT a.password_hash = :password_hash AS created, a.account_db_key, s.shard_id, COALESCE(m.number, 0) AS mark
FROM accounts a
LEFT JOIN account_shards s USING (account_db_key)
LEFT JOIN database_mark m ON m.id = 1
WHERE a.account_id = :account_id;
