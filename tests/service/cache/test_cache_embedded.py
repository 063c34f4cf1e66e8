"""The embedded server: its data outlives every kill, one server a folder, back when it dies."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from base_server.service.cache.cache_service import CacheService
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.errors import StartError
from base_server.service.core.logger import configure_logging
from base_server.service.redis_client.script import Script
from tests.backends_redis import find_server, make_cache, running_cache

EMBEDDED = CacheSettings(type="embedded")

# A server of its own that writes without end and prints each acknowledged number.
WRITER = '''
import asyncio, itertools, sys
from pathlib import Path
from base_server.service.cache.cache_service import CacheService
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.redis_client.script import Script

async def main():
    data_dir = Path(sys.argv[1])
    settings = CacheSettings(type="embedded")
    service = CacheService(settings, app_id="app", env="TEST", partitions=16, data_dir=data_dir)
    await service.start()
    print("child", service._embedded.pid, flush=True)
    redis = service.get_client()
    # Repeatable: called again for the same number it changes nothing.
    append = Script("append", """
        if redis.call('LLEN', KEYS[1]) == tonumber(ARGV[1]) then
          redis.call('RPUSH', KEYS[1], ARGV[1])
        end
    """)
    for n in itertools.count():
        await redis.run_script(append, [redis.key("l:1")], [n])
        print(n, flush=True)

asyncio.run(main())
'''


@pytest.fixture(autouse=True)
def _binary() -> None:
    find_server("valkey")


class Writer:
    """A process running WRITER; ``child`` is the process id of its embedded server."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        (folder / "writer.py").write_text(WRITER)
        command = [sys.executable, str(folder / "writer.py"), str(self.data_dir)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self.child = next(int(line.split()[1]) for line in self._output if line.startswith("child"))
        self.highest = -1

    def acknowledge(self, count: int) -> None:
        """Wait for so many more acknowledged writes."""
        for number in itertools.islice(self._numbers(), count):
            self.highest = number

    def kill(self, *names: str) -> None:
        for name in names:
            os.kill(self._process.pid if name == "the server" else self.child, signal.SIGKILL)

    def end(self) -> None:
        """Kill the server, if it lives, and read what it has still said."""
        self._process.kill()
        self._process.wait()
        if not self._output.closed:
            self.highest = max([self.highest, *self._numbers()])
            self._output.close()

    def _numbers(self) -> Iterator[int]:
        return (int(line) for line in self._output if line.strip().isdigit())


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path)
    yield writer
    writer.end()
    for pid_file in tmp_path.glob("data/valkey/valkey.pid"):  # an orphan, if the test has failed
        with suppress(ProcessLookupError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[CacheService]:
    async with running_cache(EMBEDDED, "app", data_dir=tmp_path) as service:
        yield service


async def test_it_is_gone_after_the_stop(tmp_path: Path) -> None:
    for _ in range(2):
        service = make_cache(EMBEDDED, "app", data_dir=tmp_path)
        await service.start()
        pid = _child(service)
        await service.stop()
        assert not _alive(pid)


async def test_its_facts_are_those_of_a_durable_server(embedded: CacheService) -> None:
    facts = embedded.server_facts()
    assert facts["version"].startswith("valkey ")
    assert (facts["appendonly"], facts["appendfsync"], facts["maxmemory_policy"]) == (
        "yes",
        "always",
        "noeviction",
    )


async def test_data_is_there_after_a_stop_and_a_start(tmp_path: Path) -> None:
    for n in range(3):
        service = make_cache(EMBEDDED, "app", data_dir=tmp_path)
        await service.start()
        assert await service.get_client().list_push_right("l:1", n) == n + 1
        await service.stop()


async def test_second_server_on_the_same_folder_is_refused(
    embedded: CacheService, tmp_path: Path
) -> None:
    """A second server on the same folder is refused and the first goes on."""
    pid = _child(embedded)
    with pytest.raises(StartError, match=rf"{tmp_path} is in use by another server.*data_dir"):
        await make_cache(EMBEDDED, "app", data_dir=tmp_path).start()
    assert _child(embedded) == pid
    assert await embedded.get_client().execute("PING") == "PONG"


async def test_killed_child_is_restarted_with_its_data_unnoticed(
    embedded: CacheService,
) -> None:
    """A killed child is started again with its data and callers notice nothing."""
    redis = embedded.get_client()
    script = Script("once", "return redis.call('HSETNX', KEYS[1], ARGV[1], 1)")
    acknowledged = set()
    for n in range(300):
        if n % 100 == 50:
            os.kill(_child(embedded), signal.SIGKILL)
        await redis.run_script(script, [redis.key("h:1")], [n])
        acknowledged.add(str(n))
    assert set(await redis.execute("HKEYS", redis.key("h:1"))) == acknowledged
    assert await redis.execute("GET", redis.key("epoch", 0)) == "4"


@pytest.mark.parametrize(
    "killed",
    ["the server", "the child", "the server, then the child", "the child, then the server"],
)
async def test_acknowledged_writes_survive_any_kill(writer: Writer, killed: str) -> None:
    writer.acknowledge(200)
    writer.kill(*killed.split(", then "))
    if killed == "the child":
        # Its own server starts it again; then that one dies too.
        writer.acknowledge(200)
    writer.end()
    async with running_cache(EMBEDDED, "app", data_dir=writer.data_dir) as service:
        stored = [int(value) for value in await service.get_client().list_range("l:1")]
        assert stored[: writer.highest + 1] == list(range(writer.highest + 1))
        # One more may have been executed whose answer nobody read.
        assert len(stored) - writer.highest <= 2
        assert not _alive(writer.child), "the orphan was ended"


async def test_an_orphan_that_does_not_react_is_killed(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base_server.service.cache.embedded._END_S", 0.3)
    writer.end()
    os.kill(writer.child, signal.SIGSTOP)
    async with running_cache(EMBEDDED, "app", data_dir=writer.data_dir):
        assert not _alive(writer.child)


async def test_a_stale_pid_file_harms_nobody(tmp_path: Path) -> None:
    async with running_cache(EMBEDDED, "app", data_dir=tmp_path) as service:
        os.kill(_child(service), signal.SIGKILL)
    innocent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (tmp_path / "valkey" / "valkey.pid").write_text(str(innocent.pid))
    await service.start()
    await service.stop()
    assert innocent.poll() is None
    innocent.communicate(b"\n")
    assert innocent.returncode == 0


async def test_a_folder_with_a_long_name_works(tmp_path: Path) -> None:
    deep = tmp_path / ("long-name-" * 12) / "한글 폴더"
    async with running_cache(EMBEDDED, "app", data_dir=deep) as service:
        assert service._embedded is not None
        socket = Path(str(service._embedded.client_settings().unix_socket_path))
        assert len(os.fsencode(socket)) < 104
        assert await service.get_client().execute("PING") == "PONG"
        assert (deep / "valkey" / "appendonlydir").is_dir()
    assert not socket.parent.exists()


async def test_server_that_died_on_a_full_disk_is_logged_with_the_fix(
    embedded: CacheService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cases/faults.md U9: it restarts in a loop, and nothing says why."""
    log = io.StringIO()
    configure_logging("error", log)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    try:
        os.kill(_child(embedded), signal.SIGKILL)
        assert await embedded.get_client().execute("PING") == "PONG"
    finally:
        configure_logging("debug")
    line = next(json.loads(line) for line in log.getvalue().splitlines() if "died" in line)
    assert line["fix"].startswith("free space on the disk of ")


async def test_unreadable_data_stops_the_start_with_the_servers_words(
    tmp_path: Path,
) -> None:
    async with running_cache(EMBEDDED, "app", data_dir=tmp_path):
        pass
    manifest = tmp_path / "valkey" / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("nonsense\n")
    with pytest.raises(StartError, match=r"ended at start \(.*(manifest|AOF|append).*valkey\.log"):
        await make_cache(EMBEDDED, "app", data_dir=tmp_path).start()
    assert await _lock_is_free(tmp_path)


async def test_a_folder_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StartError, match="data_dir"):
        await make_cache(EMBEDDED, "app", data_dir=tmp_path / "file").start()


async def test_the_memory_limit_is_passed_on(tmp_path: Path) -> None:
    async with running_cache(
        CacheSettings(maxmemory_mb=64, appendfsync="no"), "app", data_dir=tmp_path
    ) as service:
        redis = service.get_client()
        assert await redis.execute("CONFIG", "GET", "maxmemory") == ["maxmemory", str(64 * 2**20)]
        assert service.server_facts()["appendfsync"] == "no"


def _child(service: CacheService) -> int:
    assert service._embedded is not None
    return service._embedded.pid


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed orphan stays a zombie where nobody is there to reap it.
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


async def _lock_is_free(data_dir: Path) -> bool:
    with pytest.raises(StartError, match="ended at start"):
        await make_cache(EMBEDDED, "app", data_dir=data_dir).start()
    return True
