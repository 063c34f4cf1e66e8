-- What the server and `db apply` need, and no more: everything on the databases whose names begin
-- with chat_.
GRANT ALL PRIVILEGES ON `chat\_%`.* TO 'base_server'@'%';
