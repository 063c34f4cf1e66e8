-- purpose: The greatest client_message_id of a room above `after` that has the form of a time-ordered UUID (version 7
--   or 8): the id of the client whose clock runs ahead the most.
-- params: room_id, after
-- returns: client_message_id
-- '1' begins such ids from the year 2527 on; ids of other forms are hardly ever in the range.
SELECT client_message_id FROM chat_messages
WHERE room_id = :room_id AND client_message_id > :after AND client_message_id < '1'
  AND (client_message_id LIKE '________-____-7___-____-____________'
       OR client_message_id LIKE '________-____-8___-____-____________')
ORDER BY client_message_id DESC LIMIT 1;
