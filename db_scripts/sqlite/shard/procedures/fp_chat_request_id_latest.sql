-- purpose: The greatest client_request_id of an account's rooms, the deleted ones too, that has the form of a time-ordered
--   UUID (version 7 or 8): the id of the client whose clock runs ahead the most.
-- params: account_db_key
-- returns: client_request_id
-- '1' begins such ids from the year 2527 on; ids of other forms are hardly ever in the range.
SELECT client_request_id FROM chat_rooms
WHERE account_db_key = :account_db_key AND client_request_id < '1'
  AND (client_request_id LIKE '________-____-7___-____-____________'
       OR client_request_id LIKE '________-____-8___-____-____________')
ORDER BY client_request_id DESC LIMIT 1;
