"""The server process and the operator's commands."""

__version__ = "0.1.0"
