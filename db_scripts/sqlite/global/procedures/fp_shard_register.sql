-- purpose: Make a shard database known (active), or give a known one its new name.
-- params: shard_id, database_name
-- returns:
INSERT INTO shards (shard_id, database_name) VALUES (:shard_id, :database_name)
ON CONFLICT (shard_id) DO UPDATE SET database_name = excluded.database_name;
