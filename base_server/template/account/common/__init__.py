"""Requests and responses of the account endpoints."""
