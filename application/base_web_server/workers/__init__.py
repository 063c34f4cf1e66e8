"""Several processes on one port: the supervisor and what it shares with its workers."""
