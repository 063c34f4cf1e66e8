"""What the account protocols say on the wire."""
