-- purpose: Whether a session was logged out: its row, or none.
-- params: session_hash
-- returns: session_hash
CREATE PROCEDURE fp_session_ended_get(
    IN p_session_hash VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin
)
READS SQL DATA
BEGIN
    SELECT session_hash FROM ended_sessions WHERE session_hash = p_session_hash;
END
