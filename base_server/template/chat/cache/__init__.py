"""Redis for the chat: key names, the records' schema, the scripts, and loading from MySQL."""
