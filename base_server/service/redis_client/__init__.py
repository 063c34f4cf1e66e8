"""A Redis client for one server and for a cluster; see README.md."""
