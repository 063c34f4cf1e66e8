-- purpose: All shard databases, with their address if it is registered. New accounts go to active ones only.
-- params:
-- returns: shard_id, database_name, active, account_count, host, port
CREATE PROCEDURE fp_shards_get()
READS SQL DATA
SELECT s.shard_id, s.database_name, s.active, s.account_count, a.host, a.port
FROM shards s
LEFT JOIN shard_addresses a ON a.shard_id = s.shard_id
ORDER BY s.shard_id
