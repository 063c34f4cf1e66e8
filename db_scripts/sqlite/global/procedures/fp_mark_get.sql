-- purpose: How far this database is, and whether it knows an account, such as the newest that Redis knows.
-- params: account_db_key
-- returns: number, generation, account_known
SELECT COALESCE(MAX(number), 0) AS number, COALESCE(MAX(generation), 0) AS generation,
       EXISTS (SELECT 1 FROM accounts WHERE account_db_key = :account_db_key) AS account_known
FROM database_mark;
