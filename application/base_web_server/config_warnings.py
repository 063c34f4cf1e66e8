"""What is allowed in a configuration and still seldom meant. Each warning names the key and the mend."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from application.base_web_server.config import ServerSettings


def find_warnings(settings: ServerSettings) -> list[str]:
    """One sentence each; empty when there is nothing to say. Logged at start, printed by ``config check``."""
    in_prod = settings.templateConfig.env == "PROD"
    return [*_doors(settings), *_stores(settings, in_prod), *_replies(settings, in_prod)]


def _doors(settings: ServerSettings) -> Iterator[str]:
    net = settings.netConfig
    if not _is_loopback(net.host) and net.admin_port is None:
        yield (
            f"netConfig.host is {net.host} and netConfig.admin_port is not set: whoever reaches the server reads"
            " /metrics too; set admin_port to a port that only operators reach"
        )
    if "*" in net.cors_origins:
        yield "netConfig.cors_origins has '*': every web page may call this server; name the pages that do"
    if any(network.endswith("/0") for network in net.trusted_proxies):
        yield "netConfig.trusted_proxies trusts every address: clients can choose theirs, and with it their limits"
    if net.log_level == "debug" and settings.templateConfig.env == "PROD":
        yield "netConfig.log_level is debug in PROD: many lines a request; set info"


def _stores(settings: ServerSettings, in_prod: bool) -> Iterator[str]:
    cache, database = settings.cacheConfig, settings.databaseConfig
    if cache.type == "fake":
        yield "cacheConfig.type is fake: everything that is not in the database yet ends with the process"
    if cache.type == "embedded" and cache.appendfsync == "no":
        yield "cacheConfig.appendfsync is no: a power cut loses what was acknowledged in the last half minute"
    if cache.type == "embedded" and cache.maxmemory_mb == 0:
        yield "cacheConfig.maxmemory_mb is 0: only the machine's memory bounds the embedded server"
    if in_prod and cache.accept_volatile:
        yield "cacheConfig.accept_volatile is true in PROD: a Redis that dies may lose what was acknowledged"
    is_remote = cache.unix_socket_path is None and not _is_loopback(cache.host)
    if in_prod and cache.type in ("redis", "redis_cluster") and is_remote and cache.password is None:
        yield "cacheConfig.password is not set: whoever reaches Redis reads and changes every chat"
    if in_prod and database.type == "mysql" and database.user == "root":
        yield "databaseConfig.user is root in PROD: give the server a user of its own"


def _replies(settings: ServerSettings, in_prod: bool) -> Iterator[str]:
    llm = settings.llmConfig
    if in_prod and llm.demo_without_key:
        yield "llmConfig.demo_without_key is true in PROD: a missing key makes players talk to the demo"
    for name, provider in llm.providers.items():
        url = urlsplit(provider.base_url)
        if url.scheme == "http" and provider.api_key is not None and not _is_loopback(url.hostname or ""):
            yield f"llmConfig.providers.{name}.base_url is not https: its key and all messages can be read on the way"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
