-- purpose: Whether a session was logged out: its row, or none.
-- params: session_hash
-- returns: session_hash
SELECT session_hash FROM ended_sessions WHERE session_hash = :session_hash;
