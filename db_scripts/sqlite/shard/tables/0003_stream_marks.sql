-- How far each event stream (one a partition) is written: raised right after its batches, known to Redis too. A database
-- that is below what Redis knows was put back to an earlier time.
CREATE TABLE stream_marks (
    stream INTEGER NOT NULL PRIMARY KEY,
    mark INTEGER NOT NULL
);
