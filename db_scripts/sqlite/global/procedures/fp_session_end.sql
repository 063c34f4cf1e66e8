-- purpose: Note that a session was logged out, for live_s seconds, and raise the database's mark. Some notes whose
--   time is over go with each call.
-- params: session_hash, live_s
-- returns: session_hash, mark
INSERT INTO ended_sessions (session_hash, expires_at)
VALUES (:session_hash, strftime('%Y-%m-%d %H:%M:%f', 'now', printf('%+d seconds', :live_s)))
ON CONFLICT (session_hash) DO NOTHING;

INSERT INTO database_mark (id, number, generation) VALUES (1, 1, 0)
ON CONFLICT (id) DO UPDATE SET number = number + 1;

DELETE FROM ended_sessions
WHERE session_hash IN (SELECT session_hash FROM ended_sessions
                       WHERE expires_at < strftime('%Y-%m-%d %H:%M:%f', 'now')
                       ORDER BY expires_at LIMIT 100);

SELECT :session_hash AS session_hash, number AS mark FROM database_mark WHERE id = 1;
