-- purpose: The marks of all event streams.
-- params:
-- returns: stream, mark
SELECT stream, mark FROM stream_marks;
