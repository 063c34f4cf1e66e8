-- purpose: Make a shard database known (active), or give a known one its new name and address. Without host or port it
--   is where each server's own configuration says.
-- params: shard_id, database_name, host, port
-- returns:
CREATE PROCEDURE fp_shard_register(
    IN p_shard_id INT,
    IN p_database_name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_host VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_port INT
)
MODIFIES SQL DATA
BEGIN
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        ROLLBACK;
        RESIGNAL;
    END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;

    INSERT INTO shards (shard_id, database_name) VALUES (p_shard_id, p_database_name)
    ON DUPLICATE KEY UPDATE database_name = VALUES(database_name);
    INSERT INTO shard_addresses (shard_id, host, port) VALUES (p_shard_id, p_host, p_port)
    ON DUPLICATE KEY UPDATE host = VALUES(host), port = VALUES(port);

    COMMIT;
END
