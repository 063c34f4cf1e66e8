-- purpose: The marks of all event streams.
-- params:
-- returns: stream, mark
CREATE PROCEDURE fp_stream_marks_get()
READS SQL DATA
SELECT stream, mark FROM stream_marks
