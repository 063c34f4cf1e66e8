-- purpose: Note that a session was logged out, for live_s seconds, and raise the database's mark. Some notes whose
--   time is over go with each call.
-- params: session_hash, live_s
-- returns: session_hash, mark
CREATE PROCEDURE fp_session_end(
    IN p_session_hash VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin,
    IN p_live_s BIGINT
)
MODIFIES SQL DATA
BEGIN
    DECLARE v_mark BIGINT;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        ROLLBACK;
        RESIGNAL;
    END;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    START TRANSACTION;

    INSERT INTO ended_sessions (session_hash, expires_at)
    VALUES (p_session_hash, UTC_TIMESTAMP(3) + INTERVAL p_live_s SECOND)
    ON DUPLICATE KEY UPDATE session_hash = ended_sessions.session_hash;
    INSERT INTO database_mark (id, number, generation) VALUES (1, 1, 0)
    ON DUPLICATE KEY UPDATE number = number + 1;
    SELECT number INTO v_mark FROM database_mark WHERE id = 1;

    COMMIT;
    DELETE FROM ended_sessions WHERE expires_at < UTC_TIMESTAMP(3) ORDER BY expires_at LIMIT 100;

    SELECT p_session_hash AS session_hash, v_mark AS mark;
END
