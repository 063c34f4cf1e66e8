-- purpose: The name of an account, by its number.
-- params: account_db_key
-- returns: account_id
CREATE PROCEDURE fp_account_name_get(
    IN p_account_db_key BIGINT
)
READS SQL DATA
SELECT account_id FROM accounts WHERE account_db_key = p_account_db_key
