"""From the event streams to MySQL: batches, dead letters, and databases that came back older."""
