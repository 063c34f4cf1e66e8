"""The real server as a process of its own, in a temporary folder and on a free port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from docs.generate_postman import described_api
from tests.forked_process import ForkedProcess
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[1]
DESCRIBED = described_api()["paths"]
WORKERS = int(os.environ.get("SERVER_WORKERS", "1"))
"""How many processes the servers of the tests have, unless a test says it itself: SERVER_WORKERS=4
runs the whole suite against four, and tests/conftest.py makes each request a connection of its own,
to a worker of chance."""


def server_environment(data_dir: Path, changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without its configuration, for a server on a free port in
    ``data_dir``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("BASE_SERVER__") and name != "OPENAI_API_KEY"
    }
    return {
        **kept,
        "BASE_SERVER__NETCONFIG__PORT": "0",
        "BASE_SERVER__TEMPLATECONFIG__DATA_DIR": str(data_dir),
        # Players of the tests send faster than people.
        "BASE_SERVER__CHATCONFIG__SENDS_AT_ONCE": "1000000",
        "BASE_SERVER__CHATCONFIG__MAX_OPEN_REPLIES": "1000",
        "BASE_SERVER__NETCONFIG__SIGNUPS_PER_ADDRESS": "1000000",
        "BASE_SERVER__LLMCONFIG__DEMO_WORD_DELAY_S": "0",
        **(changes or {}),
    }


def import_path(source: Path) -> dict[str, str]:
    """The environment variable with which a process imports this version of ours."""
    if source == ROOT:
        return {}
    # The version 0.1 had two import roots.
    folders = [source, source / "base_server"]
    return {"PYTHONPATH": os.pathsep.join(map(str, folders))}


def run_to_its_end(
    arguments: list[str],
    environment: Mapping[str, str],
    *,
    is_fresh: bool = False,
    source: Path = ROOT,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m …`` until it ends; ``is_fresh`` and ``source`` as in
    :class:`ServerProcess`."""
    if is_fresh or source != ROOT:
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=source, env=dict(environment), capture_output=True, text=True, check=False,
        )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        log = Path(folder) / "stderr"
        process = ForkedProcess(arguments, ROOT, environment, log)
        with process.stdout as stdout:
            said = stdout.read()
        return subprocess.CompletedProcess(
            arguments, process.wait(), said, log.read_text(encoding="utf-8")
        )


class ServerProcess:
    """``base_url`` is known once :meth:`start` has returned; it changes at every start.

    ``is_fresh``: in an interpreter of its own, as users start it, which costs seconds of CPU; else
    forked. ``source``: the folder of another version, which takes an interpreter of its own too."""

    def __init__(
        self,
        data_dir: Path,
        *,
        env: str = "LOCAL",
        changes: Mapping[str, str] | None = None,
        workers: int = WORKERS,
        is_fresh: bool = False,
        source: Path = ROOT,
    ) -> None:
        self._is_fresh = is_fresh or source != ROOT
        self.source = source
        self.data_dir = data_dir
        self.env = env
        self.base_url = ""
        self._arguments = ["application.base_web_server", "--env", env]
        if workers > 1:
            self._arguments += ["--workers", str(workers)]
        self._environment = server_environment(data_dir, changes) | import_path(source)
        self._log = data_dir.parent / f"{data_dir.name}.log"
        self._process: subprocess.Popen[str] | ForkedProcess | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def environment(self) -> Mapping[str, str]:
        """With its configuration; for the operator's commands beside it."""
        return self._environment

    @property
    def log(self) -> str:
        """What all starts of this server have written to stderr."""
        return self._log.read_text(encoding="utf-8")

    def launch(self) -> None:
        """Start without waiting."""
        self._log.touch()
        if not self._is_fresh:
            self._process = ForkedProcess(self._arguments, ROOT, self._environment, self._log)
            return
        command = [sys.executable, "-m", *self._arguments]
        with self._log.open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.source,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def start(self) -> None:
        """Start and wait until it is ready."""
        self.launch()
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("Ready at http://"), (
            f"no address but {line!r}; log: {self.log[-2000:]}"
        )
        self.base_url = line.split()[-1]

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """The exit code."""
        assert self._process is not None
        assert self._process.stdout is not None
        code = self._process.wait(timeout_s)
        self._process.stdout.close()
        return code

    def stop(self) -> int:
        """SIGTERM; the exit code. Does nothing when it has ended already."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL of the server alone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait_for_log(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        deadline_s = time.monotonic() + max(timeout_s, PATIENCE_S)
        while text not in self.log:
            assert time.monotonic() < deadline_s, f"{text!r} is not in the log: {self.log[-2000:]}"
            time.sleep(0.01)


@contextmanager
def running_server(
    data_dir: Path,
    *,
    env: str = "LOCAL",
    workers: int = WORKERS,
    is_fresh: bool = False,
    **changes: str,
) -> Iterator[ServerProcess]:
    """A server that is stopped at the end, and killed if it does not stop."""
    server = ServerProcess(data_dir, env=env, changes=changes, workers=workers, is_fresh=is_fresh)
    try:
        server.start()
        yield server
    finally:
        try:
            server.stop()
        except subprocess.TimeoutExpired:
            server.kill()
            raise


class Client:
    """A player: POSTs envelopes and keeps the token."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str) -> None:
        self._http = http
        self.base_url = base_url
        self.token: str | None = None

    async def post(self, path: str, /, **fields: Any) -> dict[str, Any]:
        """The answer's envelope, whatever its status; an error must be one that the API's
        description tells of."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with self._http.post(self.base_url + path, json=fields, headers=headers) as answer:
            body = await answer.json()
        assert isinstance(body, dict)
        # A host may have taken other templates: a path that is not there has no description to keep
        # to.
        if body["errorCode"] not in (0, 1003) and (operation := DESCRIBED.get(path)):
            assert body["errorCode"] in operation["post"]["x-error-codes"], (
                f"{path} describes no such error: {body}"
            )
        return body

    async def ok(self, path: str, /, **fields: Any) -> dict[str, Any]:
        """The answer's envelope; fails unless it is a success."""
        body = await self.post(path, **fields)
        assert body["errorCode"] == 0, body
        return body

    async def sign_in(self, account_id: str, password: str = "correct horse") -> None:
        """Sign up unless the account exists, log in, keep the token."""
        created = await self.post("/api/account/signup", account_id=account_id, password=password)
        assert created["errorCode"] in (0, 2001), created
        self.token = (
            await self.ok("/api/account/login", account_id=account_id, password=password)
        )["accessToken"]
