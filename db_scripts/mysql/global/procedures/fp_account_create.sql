-- purpose: Create an account on the least-loaded active shard. An existing account_id changes nothing; created is 1
--   for the call that stored it, also when that call is repeated (password hashes are salted: an equal one is ours).
--   The key is drawn from 2^52 to 2^53 - 1, so that a database that comes back older never gives one again: above
--   every key that an earlier version counted, and exact as a double in Lua and JavaScript. A key that is taken is
--   drawn again. Only a new account gets a shard: where an older one without a mapping has its rooms nobody knows here.
-- params: account_id, password_hash, nickname, email, platform_type
-- returns: created, account_db_key, shard_id, mark
CREATE PROCEDURE fp_account_create(
    IN p_account_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_password_hash VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_nickname VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_email VARCHAR(254) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_platform_type VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
)
MODIFIES SQL DATA
BEGIN
    DECLARE v_drawn BIGINT;
    DECLARE v_account_db_key BIGINT;
    DECLARE v_created INT;
    DECLARE v_shard_id INT;
    DECLARE v_mark BIGINT;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        ROLLBACK;
        RESIGNAL;
    END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;

    SELECT account_db_key INTO v_account_db_key FROM accounts WHERE account_id = p_account_id;
    WHILE v_account_db_key IS NULL DO
        SET v_drawn = 4503599627370496 + (CAST(CONV(HEX(RANDOM_BYTES(7)), 16, 10) AS UNSIGNED) & 4503599627370495);
        INSERT INTO accounts (account_db_key, account_id, password_hash, nickname, email, platform_type, created_at)
        VALUES (v_drawn, p_account_id, p_password_hash, p_nickname, p_email, p_platform_type, UTC_TIMESTAMP(3))
        ON DUPLICATE KEY UPDATE account_id = accounts.account_id;

        SELECT account_db_key INTO v_account_db_key FROM accounts WHERE account_id = p_account_id;
    END WHILE;
    SELECT password_hash = p_password_hash INTO v_created FROM accounts WHERE account_id = p_account_id;

    IF v_account_db_key = v_drawn THEN
        SELECT shard_id INTO v_shard_id
        FROM shards
        WHERE active = 1
        ORDER BY account_count, shard_id
        LIMIT 1
        FOR UPDATE;
        INSERT INTO account_shards (account_db_key, shard_id) VALUES (v_account_db_key, v_shard_id);
        UPDATE shards SET account_count = account_count + 1 WHERE shard_id = v_shard_id;
        INSERT INTO database_mark (id, number, generation) VALUES (1, 1, 0)
        ON DUPLICATE KEY UPDATE number = number + 1;
    ELSE
        SELECT shard_id INTO v_shard_id FROM account_shards WHERE account_db_key = v_account_db_key;
    END IF;
    SELECT number INTO v_mark FROM database_mark WHERE id = 1;

    COMMIT;
    SELECT v_created AS created, v_account_db_key AS account_db_key, v_shard_id AS shard_id,
           COALESCE(v_mark, 0) AS mark;
END
