"""What the chat is about, without I/O: states, events, stored messages, who calls."""
