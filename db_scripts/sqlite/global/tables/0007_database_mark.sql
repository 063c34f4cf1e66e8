-- How far this database is, in one row: `number` rises with every signup and logout, in their transaction, and Redis
-- knows it; `generation` rises whenever this database came back older than that.
CREATE TABLE database_mark (
    id INTEGER NOT NULL PRIMARY KEY,
    number INTEGER NOT NULL,
    generation INTEGER NOT NULL
) STRICT;
