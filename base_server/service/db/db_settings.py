"""Settings of the database service: section ``databaseConfig`` of the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from base_server.service.core.settings import Host, Settings

DatabaseName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,64}$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class ShardSettings(Settings):
    """One shard database. What is left out is taken from the section around it."""

    shard_id: int = Field(ge=1)
    """Number of the shard; accounts stay assigned to it."""
    database: DatabaseName
    """Name of its database (`sqlite`: of its file)."""
    host: Host | None = None
    """Its host, if not the section's. `db apply` registers it for all servers: the name by which
    they reach it."""
    port: Port | None = None
    """Its port, if not the section's."""
    user: str | None = None
    """Its user, if not the section's."""
    password: SecretStr | None = None
    """Password of that user, if not the section's."""


class DatabaseSettings(Settings):
    """One global database (``database``) and its shards.

    ``shards`` is what ``db apply`` creates and registers; a running server finds its shards, and
    the hosts of those that have their own, in the global database, and takes everything else from
    here.
    """

    type: Literal["sqlite", "mysql"] = "sqlite"
    """`sqlite` keeps files in `data_dir`; `mysql` is MySQL 8 or MariaDB 10.11 and newer."""
    host: Host = "127.0.0.1"
    """Where the global database is, and every shard without a host of its own."""
    port: Port = 3306
    """Its port."""
    user: str = "root"
    """Its user; `db apply` creates databases, tables and procedures as this user."""
    password: SecretStr = SecretStr("")
    """Password of that user; PROD does not start without one."""
    tls: bool = False
    """Encrypt connections (`mysql`) and require a certificate for the host's name."""
    tls_ca_file: Path | None = None
    """Certificates to trust instead of the system's (PEM)."""
    database: DatabaseName = "chat_global"
    """Name of the global database: accounts, their shards, the list of shards."""
    pool_size: int = Field(default=8, ge=1, le=256)
    """Connections to each database, at most."""
    timeout_s: float = Field(default=5.0, gt=0)
    """How long a call may wait for a connection, and then for its answer."""
    shards_refresh_s: float = Field(default=5.0, gt=0)
    """How often a running server looks for shards that were added or moved."""
    shards: tuple[ShardSettings, ...] = (
        ShardSettings(shard_id=1, database="chat_shard_1"),
        ShardSettings(shard_id=2, database="chat_shard_2"),
    )
    """What `db apply` creates and registers, and how each shard is reached."""

    @model_validator(mode="after")
    def _shards_are_distinct(self) -> Self:
        if not self.shards:
            raise ValueError("shards: at least one is needed")
        if len({shard.shard_id for shard in self.shards}) < len(self.shards):
            raise ValueError("shards: each shard_id must be used once")
        taken: dict[str, int] = {}
        for shard in self.shards:
            address = self._address(shard.database, shard)
            if address == self._address(self.database):
                both = f"shard {shard.shard_id} and the global database are one, {address}"
                raise ValueError(f"shards: {both}; give each a database of its own")
            if (other := taken.setdefault(address, shard.shard_id)) != shard.shard_id:
                both = f"shards {other} and {shard.shard_id} are one database, {address}"
                raise ValueError(f"shards: {both}; give each one of its own")
        return self

    def _address(self, database: str, shard: ShardSettings | None = None) -> str:
        """Which database it is, for the error text."""
        if self.type == "sqlite":
            return database
        host, port = (shard.host, shard.port) if shard else (None, None)
        return f"{database} on {host or self.host}:{port or self.port}"

    def shard(self, shard_id: int) -> ShardSettings | None:
        """The configured details of a shard, if there are any."""
        return next((shard for shard in self.shards if shard.shard_id == shard_id), None)
