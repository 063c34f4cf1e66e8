"""What fixes an outage: services say what is wrong, an operator also wants to know what to do."""

from __future__ import annotations

import re

FIX_REDIS = (
    "start it, or set cacheConfig host, port, username, password, tls"
    " (BASE_SERVER__CACHECONFIG__HOST, …__PASSWORD, …)"
)
FIX_OLDER_SHARD = (
    "find out why the database went back (a dump put back, a replica that was behind), and see in docs/operations.md,"
    " A shard that came back older, how a failover loses nothing"
)
_REFUSED_USER = re.compile(r": (1044|1045|1698) ")
_REFUSED_RIGHT = re.compile(r": (1142|1227|1370|1419) ")


def database_fix(reason: str, kind: str, env: str) -> str:
    """``reason``: of a ServiceUnavailable of the database service; ``kind``: databaseConfig.type."""
    if kind == "sqlite":
        return "stop the program that holds the file, or bring the file or its folder back from the backup"
    if "is frozen" in reason:
        return f"python -m application.manage --env {env} db unfreeze --shard ID, once nobody copies it any more"
    if _REFUSED_USER.search(reason):
        variables = "BASE_SERVER__DATABASECONFIG__USER, BASE_SERVER__DATABASECONFIG__PASSWORD"
        return f"set databaseConfig user and password ({variables}; a shard may have its own), or give this user rights"
    if _REFUSED_RIGHT.search(reason):
        return "give this user the right, or run db apply as one that has it (deploy/docker/mariadb-grants.sql)"
    return (
        "start it, or set databaseConfig host and port (BASE_SERVER__DATABASECONFIG__HOST, …__PORT)"
    )


def split_fix(error: Exception) -> tuple[str, str]:
    """What a StartError says is wrong, and what it says behind its last colon fixes it."""
    text, _, fix = " ".join(str(error).split()).rpartition(": ")
    return text, fix.removesuffix(".")
