-- purpose: The name of an account, by its number.
-- params: account_db_key
-- returns: account_id
SELECT account_id FROM accounts WHERE account_db_key = :account_db_key;
