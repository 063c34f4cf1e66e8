"""``doctor``'s checks of Redis and the databases. They change nothing that a start would not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.errors import ServiceError, StartError
from base_server.service.db.databases import DatabaseReport, Databases, report_all
from base_server.service.db.durability import judge
from base_server.service.db.schema import read_status
from base_server.service.redis_client.errors import CacheCommandError
from base_server.service.service_container import SCRIPTS_FOLDER
from base_server.template.account.global_mark import KnownMark
from base_server.template.chat.cache.keys import SIGNALS

from ..base_web_server.config.loading import ServerSettings
from .finding import Finding, Level
from .fixes import FIX_OLDER_SHARD, FIX_REDIS, database_fix, split_fix
from .operating import Operating, operating

_CLOCK_NOTE_S, _CLOCK_BAD_S = 1.0, 30.0
_SIGNAL_S = 5.0
_OLDEST_REDIS = (6, 2)
_OLDEST_MYSQL = {"MySQL": (8, 0), "MariaDB": (10, 11)}


async def check_database(settings: ServerSettings) -> list[Finding]:
    """Reachability, scripts, version, durability, clock; of the global database and each shard."""
    config = settings.databaseConfig
    databases = Databases(
        config, data_dir=settings.templateConfig.data_dir.absolute(), scripts_dir=SCRIPTS_FOLDER
    )
    asked_s = time.time()
    partitions = settings.queueConfig.partitions
    reports = await report_all(databases, config, partitions)
    env = settings.templateConfig.env
    return [
        finding
        for report in reports
        for finding in _database(report, env, asked_s, config.type, partitions)
    ]


def _database(
    report: DatabaseReport, env: str, asked_s: float, kind: str, partitions: int
) -> Iterator[Finding]:
    if report.status is None:
        fix = database_fix(report.outage, kind, env)
        yield Finding(report.name, Level.BAD, f"cannot be used: {report.outage}", fix)
        return
    if not report.status.is_current:
        fix = f"python -m application.manage --env {env} db apply"
        try:
            report.status.refuse_mistakes(command=fix)
        except StartError as mistake:
            fix = str(mistake)
        else:
            if kind == "sqlite":
                yield Finding(
                    report.name,
                    Level.GOOD,
                    f"{report.label} will be updated at the next start",
                )
                return
        yield Finding(report.name, Level.BAD, f"{report.label}: its scripts are not current", fix)
        return
    yield Finding(report.name, Level.GOOD, f"{report.label} responds, its scripts are current")
    version = report.facts.get("version", "")
    product = "MariaDB" if "MariaDB" in version else "MySQL"
    if kind == "mysql":
        yield _version(report.name, product, version, _OLDEST_MYSQL[product])
    durability = judge(report.name, report.facts)
    yield Finding(
        report.name, Level.GOOD if durability.safe else Level.DOUBTFUL, durability.sentence
    )
    if (shared := report.facts.get("queue_partitions", str(partitions))) != str(partitions):
        text = f"its data has {shared} partitions, the configuration {partitions}"
        yield Finding(report.name, Level.BAD, text, f"set queueConfig.partitions to {shared}")
    if "clock_s" in report.facts:
        yield _clock(report.name, float(report.facts["clock_s"]) - asked_s)


async def check_redis(settings: ServerSettings) -> list[Finding]:
    """Reachability, version, durability, memory, clock, signals, queues, and data that is older."""
    try:
        async with operating(settings) as tools:
            client = tools.cache.get_client()
            asked_s = time.time()
            clocks = await client.execute_on_each("TIME")
            findings = [
                Finding("redis", Level.GOOD, tools.how),
                *await _durability(tools, settings),
            ]
            for node, (seconds, micros) in clocks.items():
                findings.append(
                    _clock(f"redis {node}".strip(), int(seconds) + int(micros) / 1e6 - asked_s)
                )
            findings.extend(await _memory(client))
            findings.append(await _generations(tools))
            findings += await _global_mark(tools, settings)
            findings.append(await _signals(tools, settings.cacheConfig.username or "default"))
            findings += await _queues(tools, settings.templateConfig.env)
            shard_ids = [shard.shard_id for shard in settings.databaseConfig.shards]
            alarms = await tools.older_shards.alarms(shard_ids)
            for found in await tools.older_shards.reports(shard_ids):
                level, text = Level.DOUBTFUL, f"{found}: that is done"
                if found in alarms:
                    level, text = Level.BAD, str(found)
                findings.append(Finding("shard", level, text, FIX_OLDER_SHARD))
            return findings
    except StartError as error:
        return [Finding("redis", Level.BAD, *split_fix(error))]
    except ServiceError as error:
        return [Finding("redis", Level.BAD, " ".join(str(error).split()), FIX_REDIS)]


async def _durability(tools: Operating, settings: ServerSettings) -> list[Finding]:
    durability = await tools.cache.durability()
    product, _, number = durability.settings["version"].partition(" ")
    level, fix = Level.GOOD if durability.safe else Level.DOUBTFUL, ""
    if not durability.safe:
        fix = (
            "CONFIG SET appendonly yes, maxmemory-policy noeviction, and the same in its"
            " configuration file"
        )
        if settings.templateConfig.env == "PROD" and not settings.cacheConfig.accept_volatile:
            level = Level.BAD
    return [
        _version("redis", product, number, _OLDEST_REDIS),
        Finding("redis", level, durability.sentence, fix),
    ]


async def _memory(client: CacheClient) -> list[Finding]:
    infos = await client.execute_on_each("INFO", "memory")
    return [_memory_of(node, text) for node, text in infos.items()]


def _memory_of(node: str, info: str) -> Finding:
    facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    used, limit = int(facts["used_memory"]), int(facts.get("maxmemory", 0))
    what = f"redis {node}".strip()
    text = (
        f"{used >> 20} MiB of {limit >> 20} MiB used"
        if limit
        else f"{used >> 20} MiB used, no limit set"
    )
    if limit and used > 0.8 * limit:
        fix = (
            "raise maxmemory (embedded: cacheConfig.maxmemory_mb): at the limit writes are refused"
        )
        return Finding(what, Level.DOUBTFUL, text, fix)
    return Finding(what, Level.GOOD, text)


async def _generations(tools: Operating) -> Finding:
    """Every partition must be of this run of Redis; connections check that first."""
    generations = await tools.cache.generations()
    if wrong := sum(not is_of_this_run for _, is_of_this_run in generations):
        fix = "look for a server with another Redis under the same address; restart the servers"
        return Finding(
            "partitions", Level.BAD, f"{wrong} of {len(generations)} are of another Redis run", fix
        )
    highest = max(number for number, _ in generations)
    return Finding(
        "partitions",
        Level.GOOD,
        f"{len(generations)}, all of this Redis run, highest generation {highest}",
    )


async def _global_mark(tools: Operating, settings: ServerSettings) -> list[Finding]:
    """Whether the global database has every signup and logout that Redis knows of.

    No finding if it is down, which is reported elsewhere.
    """
    known = await KnownMark.read(tools.cache)
    data_dir = settings.templateConfig.data_dir.absolute()
    databases = Databases(settings.databaseConfig, data_dir=data_dir, scripts_dir=SCRIPTS_FOLDER)
    database = databases.open_global()
    try:
        if not (await read_status(database, databases.global_scripts)).is_current:
            return []
        stored = (await database.call("fp_mark_get", (known.account,)))[0]
    except ServiceError:
        return []
    finally:
        await database.close()
    fix = "restore a newer copy of it, or accept the loss: this is reported for a day"
    if stored["number"] < known.number or (known.account and not stored["account_known"]):
        text = "it lacks changes that Redis knows of: acknowledged signups and logouts are lost"
        return [Finding("mark:global", Level.BAD, text, fix)]
    if known.older is not None and known.older.is_recent:
        return [Finding("mark:global", Level.BAD, str(known.older), fix)]
    return [
        Finding(
            "mark:global",
            Level.GOOD,
            "the global database has every signup and logout that Redis knows of",
        )
    ]


async def _signals(tools: Operating, user: str) -> Finding:
    """Send this process a signal, which needs a right of its own. Servers ignore it."""
    received = asyncio.Event()
    try:
        listens = await tools.cache.subscribe(SIGNALS, lambda channel, text: received.set())
        await tools.cache.get_client().publish(SIGNALS, "doctor", partition=0)
        async with asyncio.timeout(_SIGNAL_S if listens else 0):
            await received.wait()
    except (CacheCommandError, TimeoutError):
        text = (
            "signals between processes do not arrive: streams that are read in another process"
            " than their reply's are slow"
        )
        channels = tools.cache.channels(SIGNALS)
        fix = f"give the user the channels: ACL SETUSER {user} '&{channels}', then ACL SAVE"
        return Finding("signals", Level.DOUBTFUL, text, fix)
    return Finding("signals", Level.GOOD, "a test signal arrives")


async def _queues(tools: Operating, env: str) -> list[Finding]:
    findings = []
    await tools.queue.discover()
    for name, numbers in (await tools.queue.stats()).items():
        text = f"{numbers['waiting']} waiting, the oldest for {numbers['oldest_age_s']:.0f} s"
        findings.append(Finding(f"queue {name}", Level.GOOD, text))
        if numbers["dead"]:
            command = f"python -m application.manage --env {env} dlq list --queue {name}"
            fix = f"{command}; then dlq replay or dlq drop"
            findings.append(
                Finding(f"queue {name}", Level.DOUBTFUL, f"{numbers['dead']} dead letters", fix)
            )
    return findings


def _version(what: str, product: str, version: str, oldest: tuple[int, int]) -> Finding:
    numbers = tuple(
        int(part) for part in version.partition("-")[0].split(".")[:2] if part.isdigit()
    )
    if len(numbers) == 2 and numbers < oldest:
        fix = f"{product} {oldest[0]}.{oldest[1]} or newer is needed"
        return Finding(what, Level.BAD, f"{product} {version} is too old", fix)
    return Finding(what, Level.GOOD, f"{product} {version}")


def _clock(what: str, ahead_s: float) -> Finding:
    direction = "ahead of" if ahead_s > 0 else "behind"
    text = f"its clock is {abs(ahead_s):.1f} s {direction} this machine's"
    if abs(ahead_s) <= _CLOCK_NOTE_S:
        return Finding(what, Level.GOOD, text)
    level = Level.BAD if abs(ahead_s) > _CLOCK_BAD_S else Level.DOUBTFUL
    return Finding(
        what, level, text, "synchronize both clocks with a time server (chrony, systemd-timesyncd)"
    )
