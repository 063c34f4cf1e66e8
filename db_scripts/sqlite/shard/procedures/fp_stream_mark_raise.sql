-- purpose: Raise the mark of an event stream, unless it is below what is known of it: then the database lost events, and
--   its mark stays until they are written again. Answers the mark: below `known` when it was not raised.
-- params: stream, known, mark
-- returns: mark
INSERT INTO stream_marks (stream, mark) VALUES (:stream, iif(:known = 0, :mark, 0))
ON CONFLICT (stream) DO UPDATE SET mark = iif(mark >= :known, MAX(mark, :mark), mark);

SELECT mark FROM stream_marks WHERE stream = :stream;
