"""``cacheConfig``: which Redis, and how to reach it."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from base_server.service.core.settings import Host, Settings
from base_server.service.redis_client.cluster_map import Address
from base_server.service.redis_client.connection import Connector


class CacheSettings(Settings):
    """Defaults are those of LOCAL: an embedded Valkey whose data lives in ``data_dir``."""

    type: Literal["embedded", "redis", "redis_cluster"] = "embedded"
    """`embedded` is a Valkey of our own in `data_dir`."""
    host: Host = "127.0.0.1"
    """Where `redis` is; of `redis_cluster` one node, from which the others are learned."""
    port: int = Field(default=6379, ge=1, le=65535)
    """Its port."""
    nodes: list[str] = Field(default=[])
    """`redis_cluster` only, instead of host and port: nodes as `host:port`, of which one must be up
    at start."""
    db: int = Field(default=0, ge=0)
    """Its database number; a cluster has only 0."""
    username: str | None = None
    """ACL user; null is Redis' default user."""
    password: SecretStr | None = None
    """Password of that user."""
    tls: bool = False
    """Encrypt the connection."""
    tls_ca_file: str | None = None
    """Certificates to trust instead of the system's."""
    unix_socket_path: str | None = None
    """Reach ``type: redis`` by this socket instead of host and port. (With ``embedded``: the server
    there belongs to somebody else, as the supervisor's does for its workers.)"""
    accept_volatile: bool = False
    """PROD only: start although this Redis loses acknowledged writes when it dies or is full."""
    timeout_s: float = Field(default=5.0, gt=0)
    """Longest wait for a connection, and for the answer to one call."""
    bulk_timeout_s: float = Field(default=20.0, gt=0)
    """The same for fills, acknowledgements, large ranges."""
    max_connections: int = Field(default=50, ge=2)
    """Connections of this process for short calls, at most."""
    max_bulk_connections: int = Field(default=16, ge=2)
    """Connections of this process for fills, acknowledgements, large ranges and blocking reads, at
    most."""
    appendfsync: Literal["always", "everysec", "no"] = "always"
    """Embedded only: how often the append-only file reaches the disk. With ``everysec`` a power
    cut, or a kill while the disk is slow, may lose the last two seconds."""
    maxmemory_mb: int = Field(default=1024, ge=0)
    """Embedded only: at this size writes are refused, nothing is evicted; 0 = no limit."""
    start_timeout_s: float = Field(default=60.0, gt=0)
    """Embedded only: longest wait for the server to have loaded its data."""

    @property
    def seeds(self) -> list[Address]:
        """The server, or the nodes of a cluster from which the others are learned."""
        if not self.nodes:
            return [(self.host, self.port)]
        parts = [node.rpartition(":") for node in self.nodes]
        return [(host, int(port)) for host, _, port in parts]

    @property
    def address(self) -> str:
        """Where the server is, for people."""
        return self.unix_socket_path or ", ".join(f"{host}:{port}" for host, port in self.seeds)

    def connector(self, node: Address | None = None, *, timeout_s: float) -> Connector:
        """How to connect: to the one server, or to a node of a cluster."""
        host, port = node or (self.host, self.port)
        return Connector(
            host=host,
            port=port,
            unix_socket_path=self.unix_socket_path,
            db=self.db,
            username=self.username,
            password=self.password.get_secret_value() if self.password else None,
            tls=self.tls,
            tls_ca_file=self.tls_ca_file,
            timeout_s=timeout_s,
        )

    @model_validator(mode="after")
    def _fits_a_cluster(self) -> Self:
        if bad := [node for node in self.nodes if not re.fullmatch(r".+:\d{1,5}", node)]:
            raise ValueError(f"nodes are host:port, not {bad[0]!r}")
        if self.type == "redis_cluster" and (self.db or self.unix_socket_path):
            raise ValueError("redis_cluster has only db 0, and is reached by host and port")
        return self

    @property
    def owns_server(self) -> bool:
        """Whether the Redis is a child of this process, and so serves nobody else."""
        return self.type == "embedded" and self.unix_socket_path is None
