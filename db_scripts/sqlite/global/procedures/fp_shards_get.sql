-- purpose: All shard databases. New accounts go to active ones only.
-- params:
-- returns: shard_id, database_name, active
SELECT shard_id, database_name, active FROM shards ORDER BY shard_id;
