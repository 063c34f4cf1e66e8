-- purpose: Create an account on the least-loaded active shard. An existing account_id changes nothing; created is 1
--   for the call that stored it, also when that call is repeated (password hashes are salted: an equal one is ours).
-- params: account_id, password_hash, nickname, email, platform_type
-- returns: created, account_db_key, shard_id
CREATE PROCEDURE fp_account_create(
    IN p_account_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_password_hash VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_nickname VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_email VARCHAR(254) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_platform_type VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
)
MODIFIES SQL DATA
BEGIN
    DECLARE v_account_db_key BIGINT;
    DECLARE v_created INT;
    DECLARE v_shard_id INT;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        ROLLBACK;
        RESIGNAL;
    END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;

    INSERT INTO accounts (account_id, password_hash, nickname, email, platform_type, created_at)
    VALUES (p_account_id, p_password_hash, p_nickname, p_email, p_platform_type, UTC_TIMESTAMP(3))
    ON DUPLICATE KEY UPDATE account_id = accounts.account_id;

    SELECT account_db_key, password_hash = p_password_hash INTO v_account_db_key, v_created
    FROM accounts
    WHERE account_id = p_account_id;

    SELECT shard_id INTO v_shard_id FROM account_shards WHERE account_db_key = v_account_db_key;
    IF v_shard_id IS NULL THEN
        SELECT shard_id INTO v_shard_id
        FROM shards
        WHERE active = 1
        ORDER BY account_count, shard_id
        LIMIT 1
        FOR UPDATE;
        INSERT INTO account_shards (account_db_key, shard_id) VALUES (v_account_db_key, v_shard_id);
        UPDATE shards SET account_count = account_count + 1 WHERE shard_id = v_shard_id;
    END IF;

    COMMIT;
    SELECT v_created AS created, v_account_db_key AS account_db_key, v_shard_id AS shard_id;
END
