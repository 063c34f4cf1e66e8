-- purpose: Make a shard database known (active), or give a known one its new name.
-- params: shard_id, database_name
-- returns:
CREATE PROCEDURE fp_shard_register(
    IN p_shard_id INT,
    IN p_database_name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin
)
MODIFIES SQL DATA
INSERT INTO shards (shard_id, database_name) VALUES (p_shard_id, p_database_name)
ON DUPLICATE KEY UPDATE database_name = VALUES(database_name)
