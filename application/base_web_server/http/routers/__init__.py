"""Routes: the endpoints of the templates, the operators' pages, the chat page."""
