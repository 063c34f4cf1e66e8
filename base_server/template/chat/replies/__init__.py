"""Replies: their slots, their tasks, and reading them along."""
