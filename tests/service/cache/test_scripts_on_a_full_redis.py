"""Which scripts run although Redis has reached maxmemory, and that they are all that do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.generation import require_flags
from base_server.service.core.errors import ServiceUnavailable, StartError
from base_server.service.queue.stream_store import MOVE
from base_server.service.redis_client.precondition import Precondition
from base_server.service.redis_client.script import Script, load_scripts
from tests.backends_redis import RedisServer, running_cache

PROJECT = Path(__file__).parents[3]
FOLDERS = sorted((PROJECT / "base_server").rglob("lua"))
EXEMPT = {
    "acknowledge_events",
    "acquire_lock",
    "append_delta",
    "assign_seq",
    "claim_slot",
    "dead_letter_entries",
    "end_reply",
    "extend_lock",
    "find_expired_slots",
    "hand_over",
    "mark_processing",
    "move_state",
    "raise_mark",
    "record_attempt",
    "release_reply",
    "restore_slot",
    "stop_reply",
    "verify_run",
}
"""What lies between the queue and the database, what ends a reply (cases/faults.md U2), and the
mark of the global database (U11)."""
ADD = Script("add", "return redis.call('SET', KEYS[1], string.rep('x', 100))")
ADD_ALLOWED = Script("add", ADD.body, allow_oom=True)


def test_the_scripts_exempt_from_maxmemory_are_these() -> None:
    """cases/faults.md U2: a named list, and nothing else is exempt."""
    scripts = [script for folder in FOLDERS for script in load_scripts(folder).values()]
    assert {script.name for script in [*scripts, MOVE] if script.allow_oom} == EXEMPT | {
        "move_message"
    }
    assert all(
        script.source.startswith("#!lua flags=allow-oom\n") == script.allow_oom
        for script in scripts
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PROJECT)))
def test_an_exempt_script_names_what_it_may_add(folder: Path) -> None:
    for file in folder.rglob("*.lua"):
        said = re.search(r"^-- allow-oom: (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert (said is not None) == (file.stem in EXEMPT), file.name


async def test_a_full_redis_runs_the_exempt_scripts_alone(
    private_server: RedisServer, app_id: str
) -> None:
    async with running_cache(private_server.settings(), app_id) as service:
        cache: CacheClient = service.get_client()
        generation_key, key = cache.key("epoch", 0), cache.key("some:1", 0)
        await cache.execute("SET", key, "text")
        precondition = Precondition(
            key, "text", 60, generation_key, await cache.execute("GET", generation_key)
        )
        await cache.execute("CONFIG", "SET", "maxmemory", "1")
        for asked in (None, precondition):
            with pytest.raises(ServiceUnavailable, match="OOM"):
                await cache.run_script(ADD, [cache.key("new:1", 0)], [], precondition=asked)
            assert (
                await cache.run_script(ADD_ALLOWED, [cache.key("new:2", 0)], [], precondition=asked)
                is not None
            )
        assert await cache.execute("EXISTS", cache.key("new:1", 0)) == 0


def test_a_server_without_script_flags_is_refused() -> None:
    for version in ("7.0.15", "8.0.0", "10.1.0"):
        require_flags(version)
    with pytest.raises(StartError, match=r"7\.0 or newer"):
        require_flags("6.2.14")
