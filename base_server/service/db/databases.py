"""Which databases there are: one global, one for each shard. Builds them from the settings."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from base_server.service.core.errors import ServiceUnavailable, StartError
from base_server.service.db import schema
from base_server.service.db.database import Database
from base_server.service.db.db_settings import DatabaseSettings, ShardSettings
from base_server.service.db.mysql_connection import MySqlTarget
from base_server.service.db.mysql_database import MySqlDatabase
from base_server.service.db.schema import SchemaStatus
from base_server.service.db.scripts import ScriptSet, load_scripts
from base_server.service.db.sqlite_database import SqliteDatabase
from base_server.service.db.values import Row


@dataclass(frozen=True)
class ShardAddress:
    """Where a shard is. Without host or port: where the process's own settings say."""

    shard_id: int
    database: str
    host: str | None = None
    port: int | None = None

    @classmethod
    def of(cls, shard: ShardSettings) -> ShardAddress:
        """As it is configured."""
        return cls(shard.shard_id, shard.database, shard.host, shard.port)

    @classmethod
    def registered(cls, row: Row) -> ShardAddress:
        """As the global database knows it; ``row`` of fp_shards_get."""
        return cls(row["shard_id"], row["database_name"], row["host"], row["port"])


@dataclass(frozen=True)
class AppliedScripts:
    """What ``apply_all`` did to one database."""

    label: str
    names: list[str]


class Databases:
    """Builds the databases of one configuration, all with the scripts of their kind."""

    def __init__(self, settings: DatabaseSettings, *, data_dir: Path, scripts_dir: Path) -> None:
        self._settings = settings
        self._folder = data_dir / "db"
        self._tls = _tls_context(settings) if settings.tls else None
        self.global_scripts = load_scripts(scripts_dir, settings.type, "global")
        self.shard_scripts = load_scripts(scripts_dir, settings.type, "shard")

    def open_global(self) -> Database:
        return self._open(self._settings.database, None, self.global_scripts)

    def open_shard(self, address: ShardAddress) -> Database:
        """A shard, with what its address leaves open (user and password at least) from the
        settings."""
        return self._open(address.database, address, self.shard_scripts)

    def _open(self, name: str, address: ShardAddress | None, scripts: ScriptSet) -> Database:
        settings = self._settings
        if settings.type == "sqlite":
            return SqliteDatabase(
                self._folder / f"{name}.sqlite3", scripts, timeout_s=settings.timeout_s
            )
        own = settings.shard(address.shard_id) if address else None
        password = own.password if own and own.password is not None else settings.password
        target = MySqlTarget(
            host=(address and address.host) or (own and own.host) or settings.host,
            port=(address and address.port) or (own and own.port) or settings.port,
            user=(own and own.user) or settings.user,
            password=password.get_secret_value(),
            database=name,
            tls=self._tls,
        )
        return MySqlDatabase(
            target, scripts, pool_size=settings.pool_size, timeout_s=settings.timeout_s
        )


def _tls_context(settings: DatabaseSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.tls_ca_file)
    except OSError as error:
        raise StartError(
            f"databaseConfig.tls_ca_file {settings.tls_ca_file}: {error}; "
            "name a PEM file of certificates, or"
            " leave it out for the system's."
        ) from error


async def apply_all(
    databases: Databases,
    settings: DatabaseSettings,
    *,
    command: str = "db apply",
    downgrade: bool = False,
) -> list[AppliedScripts]:
    """Create and bring up to date every configured database, and register the shards in the global
    one.

    Raises ``StartError`` for a mistake in the scripts, and for procedures of a newer version unless
    this is a ``downgrade``; ``ServiceUnavailable`` for a server that does not answer. ``command``
    is what the error names.
    """
    global_database = databases.open_global()
    opened = [
        (databases.open_shard(ShardAddress.of(shard)), databases.shard_scripts)
        for shard in settings.shards
    ]
    opened.append((global_database, databases.global_scripts))
    try:
        for database, scripts in opened:  # before anything is changed in any of them
            status = await schema.read_status(database, scripts)
            status.refuse_mistakes(command=command, downgrade=downgrade)
        done: list[AppliedScripts] = []
        for database, scripts in opened:
            names = await schema.apply(database, scripts, command=command, downgrade=downgrade)
            done.append(AppliedScripts(database.label, names))
        known = [
            ShardAddress.registered(row) for row in await global_database.call("fp_shards_get", ())
        ]
        for address in map(ShardAddress.of, settings.shards):
            if address not in known:
                values = (address.shard_id, address.database, address.host, address.port)
                await global_database.call("fp_shard_register", values)
        return done
    finally:
        for database, _ in opened:
            await database.close()


async def set_frozen(
    databases: Databases, settings: DatabaseSettings, shard_id: int, *, frozen: bool
) -> str:
    """Freeze a configured shard, or unfreeze it (:meth:`Database.freeze`); what a person calls
    it."""
    shard = settings.shard(shard_id)
    if shard is None:
        known = ", ".join(str(shard.shard_id) for shard in settings.shards)
        raise StartError(f"databaseConfig.shards has no shard {shard_id}; it has {known}")
    database = databases.open_shard(ShardAddress.of(shard))
    try:
        await (database.freeze() if frozen else database.unfreeze())
        return database.label
    finally:
        await database.close()


@dataclass(frozen=True)
class DatabaseReport:
    """The report on one database for an operator; ``outage``: why the other fields are missing."""

    name: str
    label: str
    outage: str = ""
    status: SchemaStatus | None = None
    facts: dict[str, str] = field(default_factory=dict)


async def report_all(
    databases: Databases, settings: DatabaseSettings, partitions: int
) -> list[DatabaseReport]:
    """Look at every configured database, the global one first; one that is away is a report too.

    The global one's facts have ``queue_partitions``: the number that its servers share
    (``partitions``, if none did start yet)."""
    reports = []
    opened = [("database:global", databases.open_global(), databases.global_scripts)]
    for shard in settings.shards:
        database = databases.open_shard(ShardAddress.of(shard))
        opened.append((f"database:shard{shard.shard_id}", database, databases.shard_scripts))
    for name, database, scripts in opened:
        try:
            status = await schema.read_status(database, scripts)
            if status.is_current:
                await database.ping()  # a frozen one says so
            facts = await database.facts() if status.is_current else {}
            if facts and scripts is databases.global_scripts:
                rows = await database.call(
                    "fp_setting_claim", ("queue_partitions", str(partitions))
                )
                facts["queue_partitions"] = rows[0]["value"]
            reports.append(DatabaseReport(name, database.label, "", status, facts))
        except ServiceUnavailable as outage:
            reports.append(DatabaseReport(name, database.label, outage.reason))
        finally:
            await database.close()
    return reports


async def read_all_status(databases: Databases, settings: DatabaseSettings) -> list[SchemaStatus]:
    """The state of every configured database, the global one first."""
    statuses: list[SchemaStatus] = []
    opened = [(databases.open_global(), databases.global_scripts)]
    opened += [
        (databases.open_shard(ShardAddress.of(shard)), databases.shard_scripts)
        for shard in settings.shards
    ]
    for database, scripts in opened:
        try:
            statuses.append(await schema.read_status(database, scripts))
        finally:
            await database.close()
    return statuses
