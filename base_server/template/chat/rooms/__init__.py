"""Rooms: creating, listing, renaming, deleting, and finding their owner."""
