"""Templates: features of the server, each with a table of endpoints and a lifecycle."""
