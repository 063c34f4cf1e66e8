"""Redis as the server calls it: one client for one server or a cluster, calls batched per loop iteration."""
