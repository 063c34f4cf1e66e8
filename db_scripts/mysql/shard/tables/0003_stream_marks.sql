-- How far each event stream (one a partition) is written: raised right after its batches, known to Redis too. A database
-- that is below what Redis knows was put back to an earlier time.
CREATE TABLE IF NOT EXISTS stream_marks (
    stream INT NOT NULL PRIMARY KEY,
    mark BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
