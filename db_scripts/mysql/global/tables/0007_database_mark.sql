-- How far this database is, in one row: `number` rises with every signup and logout, in their transaction, and Redis
-- knows it; `generation` rises whenever this database came back older than that.
CREATE TABLE IF NOT EXISTS database_mark (
    id TINYINT NOT NULL PRIMARY KEY,
    number BIGINT NOT NULL,
    generation BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin
