"""Fixes for outages: services report what is wrong, ``doctor`` also says what to do."""

from __future__ import annotations

import re

FIX_REDIS = (
    "start it, or set cacheConfig host, port, username, password, tls"
    " (BASE_SERVER__CACHECONFIG__HOST, …__PASSWORD, …)"
)
FIX_OLDER_SHARD = (
    "find out why the database is older (a restored dump, a lagging replica);"
    " docs/operations.md, A shard that came back older, describes a failover without loss"
)
_REFUSED_USER = re.compile(r": (1044|1045|1698) ")
_REFUSED_RIGHT = re.compile(r": (1142|1227|1370|1419) ")


def database_fix(reason: str, kind: str, env: str) -> str:
    """``reason``: of the database service's ServiceUnavailable; ``kind``: databaseConfig.type."""
    if kind == "sqlite":
        return (
            "stop the program that uses the file, or restore the file or its folder from a backup"
        )
    if "is frozen" in reason:
        command = f"python -m application.manage --env {env} db unfreeze --shard ID"
        return f"{command}, when its copy is complete"
    if _REFUSED_USER.search(reason):
        variables = "BASE_SERVER__DATABASECONFIG__USER, BASE_SERVER__DATABASECONFIG__PASSWORD"
        return (
            f"set databaseConfig user and password ({variables}; a shard may have its own), or give"
            " this user rights"
        )
    if _REFUSED_RIGHT.search(reason):
        return (
            "give this user the right, or run db apply as a user that has it"
            " (deploy/docker/mariadb-grants.sql)"
        )
    return (
        "start it, or set databaseConfig host and port (BASE_SERVER__DATABASECONFIG__HOST, …__PORT)"
    )


def split_fix(error: Exception) -> tuple[str, str]:
    """The problem and the fix of a StartError: its last colon separates them."""
    text, _, fix = " ".join(str(error).split()).rpartition(": ")
    return text, fix.removesuffix(".")
