-- purpose: The greatest client_message_id of a room above `after` that has the form of a time-ordered UUID (version 7
--   or 8): the id of the client whose clock runs ahead the most.
-- params: room_id, after
-- returns: client_message_id
-- '1' begins such ids from the year 2527 on; ids of other forms are hardly ever in the range.
CREATE PROCEDURE fp_chat_client_id_latest(
    IN p_room_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_after VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin
)
READS SQL DATA
SELECT client_message_id FROM chat_messages
WHERE room_id = p_room_id AND client_message_id > p_after AND client_message_id < '1'
  AND (client_message_id LIKE '________-____-7___-____-____________'
       OR client_message_id LIKE '________-____-8___-____-____________')
ORDER BY client_message_id DESC
LIMIT 1
