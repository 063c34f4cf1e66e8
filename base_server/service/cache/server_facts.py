"""The durability level of this Redis: its version, its append-only file, its eviction."""

from __future__ import annotations

import re

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.generation import parse_info
from base_server.service.core.durability import Durability
from base_server.service.core.errors import StartError
from base_server.service.core.logger import Logger
from base_server.service.redis_client.errors import CacheCommandError


async def read_facts(client: CacheClient) -> dict[str, str]:
    """version, run_id, appendonly (yes, no), appendfsync, maxmemory_policy, replicas (how many);
    ``unknown`` where Redis does not report it. Of several masters the worst of each, and
    ``masters`` (how many) instead of run_id."""
    infos = await client.execute_on_each("INFO")
    try:
        configs = await client.execute_on_each("CONFIG", "GET", "appendfsync")
    except CacheCommandError:  # managed Redis keeps CONFIG to itself
        configs = {}
    facts = [_facts(parse_info(text), configs.get(node, [])) for node, text in infos.items()]
    return facts[0] if list(infos) == [""] else _worst(facts)


def _facts(info: dict[str, str], config: list[str]) -> dict[str, str]:
    server = info.get("server_name", "redis")
    return {
        "version": f"{server} {info.get('valkey_version') or info['redis_version']}",
        "run_id": info["run_id"],
        "appendonly": {"1": "yes", "0": "no"}.get(info.get("aof_enabled", ""), "unknown"),
        "appendfsync": config[1] if len(config) > 1 else "unknown",
        "maxmemory_policy": info.get("maxmemory_policy", "unknown"),
        "replicas": info.get("connected_slaves", "0"),
    }


def _worst(facts: list[dict[str, str]]) -> dict[str, str]:
    def worst(name: str, order: tuple[str, ...]) -> str:
        values = {node[name] for node in facts}
        return next((value for value in order if value in values), max(values))

    policies = {node["maxmemory_policy"] for node in facts}
    return {
        "version": min((node["version"] for node in facts), key=_numbers),
        "appendonly": worst("appendonly", ("no", "unknown", "yes")),
        "appendfsync": worst("appendfsync", ("no", "unknown", "everysec", "always")),
        "maxmemory_policy": next(
            (policy for policy in policies if policy.startswith("allkeys-")), min(policies)
        ),
        "replicas": str(min(int(node["replicas"]) for node in facts)),
        "masters": str(len(facts)),
    }


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


_FSYNC = {
    "always": "an acknowledged write survives a killed Redis and a power cut",
    "everysec": (
        "an acknowledged write survives a killed Redis whose disk keeps up; "
        "a power cut may lose the last two seconds"
    ),
    "no": (
        "an acknowledged write survives a killed Redis; "
        "a power cut may lose half a minute (appendfsync no)"
    ),
}


def judge(facts: dict[str, str]) -> Durability:
    """What an acknowledgement is worth with these facts."""
    dangers = _dangers(facts)
    if dangers:
        sentence = "; ".join(dangers)
    elif facts["appendonly"] == "unknown":
        sentence = "it does not report whether it has an append-only file"
    else:
        sentence = _FSYNC.get(facts["appendfsync"], "an acknowledged write survives a killed Redis")
    if facts["replicas"] not in ("0", "unknown"):
        sentence += f"; a failover loses what its {facts['replicas']} replicas had not received yet"
    elif "masters" in facts:
        sentence += "; a master without a replica takes its slots away for as long as it is dead"
    return Durability("redis", not dangers and facts["appendonly"] == "yes", sentence, facts)


def judge_durability(facts: dict[str, str], *, env: str, accept_volatile: bool) -> None:
    """Log what may be lost; in PROD refuse it unless ``accept_volatile``. Raises StartError."""
    dangers = _dangers(facts)
    Logger.info("cache server", **facts)
    for danger in dangers:
        Logger.warn("cache server may lose acknowledged writes", danger=danger)
    if dangers and env == "PROD" and not accept_volatile:
        raise StartError(
            f"This Redis is not safe for PROD: {'; '.join(dangers)}; "
            "or set cacheConfig.accept_volatile."
        )


def _dangers(facts: dict[str, str]) -> list[str]:
    dangers = []
    if facts["appendonly"] == "no":
        dangers.append(
            "without an append-only file, acknowledged writes are lost when it dies "
            "(set appendonly yes)"
        )
    if facts["maxmemory_policy"].startswith("allkeys-"):
        dangers.append(
            f"maxmemory-policy {facts['maxmemory_policy']} drops data that is nowhere else yet "
            "(set noeviction)"
        )
    return dangers
