"""Warnings about valid but doubtful configuration. Each names the key and the fix."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from base_server.service.core.settings import Settings

from .loading import ServerSettings


class ConfigWarning(NamedTuple):
    """As a string: both in one sentence, without the full stop."""

    text: str
    fix: str

    def __str__(self) -> str:
        return f"{self.text}; {self.fix}"


def find_warnings(settings: ServerSettings) -> list[ConfigWarning]:
    """Logged at start, printed by ``config check``."""
    in_prod = settings.templateConfig.env == "PROD"
    return [
        *_exposure(settings),
        *_unused(settings),
        *_stores(settings, in_prod),
        *_replies(settings, in_prod),
    ]


def _exposure(settings: ServerSettings) -> Iterator[ConfigWarning]:
    net = settings.netConfig
    if not _is_loopback(net.host) and net.admin_port is None:
        yield ConfigWarning(
            f"netConfig.host is {net.host} and netConfig.admin_port is not set: anyone who reaches"
            " the server can read /metrics",
            "set admin_port to a port that only operators reach",
        )
    if "*" in net.cors_origins:
        yield ConfigWarning(
            "netConfig.cors_origins has '*': every web page may call this server",
            "list the pages that need it",
        )
    if any(network.endswith("/0") for network in net.trusted_proxies):
        yield ConfigWarning(
            "netConfig.trusted_proxies trusts every address: clients can evade limits",
            "list only the proxies",
        )
    if net.log_level == "debug" and settings.templateConfig.env == "PROD":
        yield ConfigWarning(
            "netConfig.log_level is debug in PROD: several lines per request", "set info"
        )


def _unused(settings: ServerSettings) -> Iterator[ConfigWarning]:
    """An address is configured, but the type uses no server."""
    cache, database = settings.cacheConfig, settings.databaseConfig
    if cache.type == "embedded":
        names = _given(cache, ("host", "port", "nodes", "username", "password"))
        yield from _not_used("cacheConfig", names, cache.type, "redis")
    if database.type == "sqlite":
        names = _given(database, ("host", "port", "password"))
        names += [
            f"shards.{n}.host" for n, shard in enumerate(database.shards) if shard.host is not None
        ]
        yield from _not_used("databaseConfig", names, database.type, "mysql")


def _given(section: Settings, names: tuple[str, ...]) -> list[str]:
    """Those that differ from the default."""
    return [
        name for name in names if getattr(section, name) != type(section).model_fields[name].default
    ]


def _not_used(section: str, names: list[str], kind: str, other: str) -> Iterator[ConfigWarning]:
    if names:
        yield ConfigWarning(
            f"{section}.{', '.join(names)} {'is' if len(names) == 1 else 'are'} set and not used:"
            f" {section}.type is {kind}",
            f"set {section}.type to {other}, or leave {'it' if len(names) == 1 else 'them'} out",
        )


def _stores(settings: ServerSettings, in_prod: bool) -> Iterator[ConfigWarning]:
    cache, database = settings.cacheConfig, settings.databaseConfig
    if cache.type == "embedded" and cache.appendfsync == "no":
        yield ConfigWarning(
            "cacheConfig.appendfsync is no: a power cut loses the acknowledged writes of the last"
            " half minute",
            "set always",
        )
    if cache.type == "embedded" and cache.maxmemory_mb == 0:
        yield ConfigWarning(
            "cacheConfig.maxmemory_mb is 0: the embedded server may use all memory of the machine",
            "set a limit",
        )
    if in_prod and cache.accept_volatile:
        yield ConfigWarning(
            "cacheConfig.accept_volatile is true in PROD: acknowledged writes can be lost",
            "give Redis appendonly yes and noeviction, and set false",
        )
    is_remote = cache.unix_socket_path is None and not _is_loopback(cache.host)
    if (
        in_prod
        and cache.type in ("redis", "redis_cluster")
        and is_remote
        and cache.password is None
    ):
        yield ConfigWarning(
            "cacheConfig.password is not set: anyone who reaches Redis can change every chat",
            "set one in Redis and in BASE_SERVER__CACHECONFIG__PASSWORD",
        )
    if in_prod and database.type == "mysql" and database.user == "root":
        yield ConfigWarning(
            "databaseConfig.user is root in PROD", "give the server a user of its own"
        )


def _replies(settings: ServerSettings, in_prod: bool) -> Iterator[ConfigWarning]:
    llm = settings.llmConfig
    if in_prod and llm.demo_without_key:
        yield ConfigWarning(
            "llmConfig.demo_without_key is true in PROD: without a key, players talk to the demo",
            "set false",
        )
    for name, provider in llm.providers.items():
        url = urlsplit(provider.base_url)
        if (
            url.scheme == "http"
            and provider.api_key is not None
            and not _is_loopback(url.hostname or "")
        ):
            yield ConfigWarning(
                f"llmConfig.providers.{name}.base_url is not https: its key and all messages are"
                " sent in clear text",
                "set an https address",
            )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
