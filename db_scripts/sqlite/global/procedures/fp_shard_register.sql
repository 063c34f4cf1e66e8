-- purpose: Make a shard database known (active), or give a known one its new name and address. Without host or port it
--   is where each server's own configuration says.
-- params: shard_id, database_name, host, port
-- returns:
INSERT INTO shards (shard_id, database_name) VALUES (:shard_id, :database_name)
ON CONFLICT (shard_id) DO UPDATE SET database_name = excluded.database_name;

INSERT INTO shard_addresses (shard_id, host, port) VALUES (:shard_id, :host, :port)
ON CONFLICT (shard_id) DO UPDATE SET host = excluded.host, port = excluded.port;
