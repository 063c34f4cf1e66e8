-- purpose: Raise the mark of an event stream, unless it is below what is known of it: then the database lost events, and
--   its mark stays until they are written again. Answers the mark: below `known` when it was not raised.
-- params: stream, known, mark
-- returns: mark
CREATE PROCEDURE fp_stream_mark_raise(
    IN p_stream INT,
    IN p_known BIGINT,
    IN p_mark BIGINT
)
MODIFIES SQL DATA
BEGIN
    INSERT INTO stream_marks (stream, mark) VALUES (p_stream, IF(p_known = 0, p_mark, 0))
    ON DUPLICATE KEY UPDATE mark = IF(mark >= p_known, GREATEST(mark, p_mark), mark);

    SELECT mark FROM stream_marks WHERE stream = p_stream;
END
