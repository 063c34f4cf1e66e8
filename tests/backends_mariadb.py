"""Databases for tests: SQLite files, and a private mariadbd in a temporary folder on a free port.

A missing binary skips the test by name, or fails it when REQUIRE_REAL=1.

Fixtures: ``database_backend`` (sqlite, mariadb) gives a :class:`DatabaseBackend` with the scripts
applied, which tests share: use ids of your own (:mod:`tests.database_rows`). ``database`` is a
started DatabaseService on it. ``fresh_database_backend`` and ``mariadb_backend`` are the same with
empty databases of the test's own. ``mariadb_server`` is the running server, ``private_mariadb`` one
that the test may kill, pause and restart.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest

from base_server.service.db.database_service import DatabaseService
from base_server.service.db.databases import Databases, apply_all
from base_server.service.db.db_settings import DatabaseSettings
from tests.backends_redis import free_port, missing_backend
from tests.waiting import PATIENCE_S

SCRIPTS_DIR = Path(__file__).parent.parent / "db_scripts"
_SERVER_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec")  # not on everybody's PATH


class MariaDbServer:
    """One private server process: root without password on 127.0.0.1, every commit on the disk.

    ``memory_mb``: buffer pool; the log has a quarter of it."""

    def __init__(
        self,
        copy_of: MariaDbServer | None = None,
        *,
        memory_mb: int = 32,
        max_connections: int = 80,
    ) -> None:
        self._memory_mb = memory_mb
        self._max_connections = max_connections
        self._mariadbd = find_program("mariadbd", "mysqld")
        self.folder = Path(tempfile.mkdtemp(prefix="m-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        if copy_of is not None:
            shutil.copytree(copy_of.folder / "data", self.folder / "data")
            return
        command = [
            find_program("mariadb-install-db", "mysql_install_db"), *self._options(),
            "--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-flush-log-at-trx-commit=0",
        ]  # fmt: skip
        done = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0, done.stdout[:2000]  # what follows is advice

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *more_options: str, durable: bool = True) -> None:
        """Start it (again) on the same data; returns when it answers. ``durable``: every commit on
        the disk."""
        command = [
            self._mariadbd, *self._options(), f"--port={self.port}", "--bind-address=127.0.0.1",
            f"--socket={self.folder}/s", f"--pid-file={self.folder}/pid", "--skip-name-resolve",
            f"--innodb-flush-log-at-trx-commit={int(durable)}", f"--max-connections={self._max_connections}",
            "--performance-schema=OFF", *more_options,
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.sql("SELECT 1")
            except pymysql.err.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline_s, "mariadbd does not answer"
                time.sleep(0.01)
            else:
                return

    def sql(self, statement: str) -> list[dict[str, Any]]:
        """Run one statement as root, on a connection of its own."""
        client = pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            autocommit=True,
            cursorclass=pymysql.cursors.DictCursor,
        )
        with client, client.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def pause(self) -> None:
        """SIGSTOP: it accepts connections and bytes, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """SIGTERM, and wait: the data can be copied then."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
        self._process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _options(self) -> list[str]:
        user = ["--user=root"] if os.getuid() == 0 else []
        # A tmpdir of its own: a server that starts removes the temporary tables of all others that
        # share it.
        return [
            "--no-defaults", f"--datadir={self.folder}/data", f"--tmpdir={self.folder}",
            f"--innodb-buffer-pool-size={self._memory_mb}M", f"--innodb-log-file-size={self._memory_mb // 4}M", *user,
        ]  # fmt: skip


@dataclass(frozen=True)
class DatabaseBackend:
    """``settings`` for a DatabaseService with ``data_dir``; ``server`` is ``None`` for SQLite."""

    name: str
    settings: DatabaseSettings
    data_dir: Path
    server: MariaDbServer | None

    def service(self, **changes: Any) -> DatabaseService:
        """A service that is not started, with ``changes`` to the settings."""
        settings = DatabaseSettings.model_validate(self.settings.model_dump() | changes)
        return DatabaseService(settings, self.data_dir, SCRIPTS_DIR, env="TEST")

    def databases(self) -> Databases:
        return Databases(self.settings, data_dir=self.data_dir, scripts_dir=SCRIPTS_DIR)


def find_program(*names: str) -> str:
    """The first of ``names`` that is installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *_SERVER_FOLDERS])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    missing_backend(f"{names[0]} is not on PATH (Debian: apt-get install mariadb-server)")
    raise AssertionError("unreachable")


def mariadb_settings(server: MariaDbServer, **changes: Any) -> DatabaseSettings:
    """Databases with names of their own on ``server``; nothing is applied yet.

    A call may take as long as a test waits: one that is about the time-out gives its own.
    """
    prefix = f"t{uuid.uuid4().hex[:10]}"
    shards = [{"shard_id": n, "database": f"{prefix}_shard_{n}"} for n in (1, 2)]
    options = {
        "type": "mysql",
        "port": server.port,
        "database": f"{prefix}_global",
        "shards": shards,
    }
    return DatabaseSettings.model_validate(options | {"timeout_s": PATIENCE_S} | changes)


@asynccontextmanager
async def running_database(
    backend: DatabaseBackend, **changes: Any
) -> AsyncIterator[DatabaseService]:
    """A started service on ``backend``, stopped at the end."""
    service = backend.service(**changes)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


@dataclass(frozen=True)
class PreparedMariaDb:
    """A stopped server whose data has the scripts applied; servers of the tests start on a copy."""

    server: MariaDbServer
    settings: DatabaseSettings

    @contextmanager
    def running_copy(self) -> Iterator[DatabaseBackend]:
        server = MariaDbServer(copy_of=self.server)
        try:
            server.start()
            settings = self.settings.model_copy(update={"port": server.port})
            yield DatabaseBackend("mariadb", settings, Path("/nonexistent"), server)
        finally:
            server.remove()


@pytest.fixture(scope="session")
def prepared_mariadb() -> Iterator[PreparedMariaDb]:
    server = MariaDbServer()
    try:
        server.start(durable=False)
        backend = DatabaseBackend("mariadb", mariadb_settings(server), Path("/nonexistent"), server)
        asyncio.run(apply_all(backend.databases(), backend.settings))
        server.stop()
        yield PreparedMariaDb(server, backend.settings)
    finally:
        server.remove()


@pytest.fixture(scope="session")
def shared_mariadb(prepared_mariadb: PreparedMariaDb) -> Iterator[DatabaseBackend]:
    with prepared_mariadb.running_copy() as backend:
        yield backend


@pytest.fixture
def private_mariadb(prepared_mariadb: PreparedMariaDb) -> Iterator[DatabaseBackend]:
    """A server for this test alone, with the scripts applied."""
    with prepared_mariadb.running_copy() as backend:
        yield backend


@pytest.fixture(scope="session")
def mariadb_server(shared_mariadb: DatabaseBackend) -> MariaDbServer:
    assert shared_mariadb.server is not None
    return shared_mariadb.server


@pytest.fixture(scope="session")
def shared_sqlite(tmp_path_factory: pytest.TempPathFactory) -> DatabaseBackend:
    return DatabaseBackend(
        "sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path_factory.mktemp("sqlite"), None
    )


@pytest.fixture(params=["sqlite", "mariadb"])
def database_backend(request: pytest.FixtureRequest) -> DatabaseBackend:
    backend: DatabaseBackend = request.getfixturevalue(f"shared_{request.param}")
    return backend


@pytest.fixture
async def database(database_backend: DatabaseBackend) -> AsyncIterator[DatabaseService]:
    async with running_database(database_backend) as service:
        yield service


@pytest.fixture
def mariadb_backend(mariadb_server: MariaDbServer) -> DatabaseBackend:
    """Empty databases of this test's own on the shared server."""
    return DatabaseBackend(
        "mariadb", mariadb_settings(mariadb_server), Path("/nonexistent"), mariadb_server
    )


@pytest.fixture(params=["sqlite", "mariadb"])
def fresh_database_backend(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseBackend:
    """Empty databases of this test's own."""
    if request.param == "sqlite":
        return DatabaseBackend("sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path, None)
    backend: DatabaseBackend = request.getfixturevalue("mariadb_backend")
    return backend
