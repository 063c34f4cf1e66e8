"""Routes: the protocols of the templates, the operators' pages, the chat page."""
