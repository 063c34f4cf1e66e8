-- purpose: All shard databases. New accounts go to active ones only.
-- params:
-- returns: shard_id, database_name, active
CREATE PROCEDURE fp_shards_get()
READS SQL DATA
SELECT shard_id, database_name, active FROM shards ORDER BY shard_id
