"""Configuration: files, environment variables, their schema and warnings."""
