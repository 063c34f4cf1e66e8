-- Values that every server of this database must share, such as the number of partitions.
CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY CHECK (length(name) <= 64 AND name NOT GLOB '*[^ -~]*'),
    value TEXT NOT NULL CHECK (length(value) <= 255)
);
