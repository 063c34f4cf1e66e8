-- purpose: The shard that holds an account's data.
-- params: account_db_key
-- returns: shard_id
CREATE PROCEDURE fp_account_shard_get(
    IN p_account_db_key BIGINT
)
READS SQL DATA
SELECT shard_id FROM account_shards WHERE account_db_key = p_account_db_key
