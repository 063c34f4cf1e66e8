"""Messages: accepting, deleting, and reading pages of them."""
