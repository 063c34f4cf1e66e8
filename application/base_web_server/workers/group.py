"""A server of several processes on one port: its ports, folder, embedded Valkey and supervisor.

This process serves nothing itself and loads neither services nor templates, the host's included, so
their failures do not end it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from base_server.service.core.errors import StartError
from base_server.service.core.logger import Logger
from base_server.template.base.template_context import TemplateContext

from ..config.loading import ServerSettings
from ..host_app import refuse_templates_of_one_process
from .arguments import METRICS_FOLDER, WorkerArguments
from .heartbeats import Heartbeats
from .ports import PortInUse, SharedPort
from .supervisor import Supervisor

_SHM = "/dev/shm"  # noqa: S108 - a folder with a random name is made in it
_PORT_WAIT_S, _PORT_LOOK_S = 3.0, 0.1
"""Workers of a killed server release its port within 0.4 s, measured on a busy machine."""


def refuse_workers(settings: ServerSettings) -> None:
    """Raise :class:`StartError` where several processes are not possible."""
    if sys.platform == "win32":
        raise StartError(
            "There are no workers on Windows: omit --workers, and set netConfig.workers to 1."
        )


async def run_workers(
    settings: ServerSettings,
    config: Path | None,
    app: str | None,
    count: int,
    on_ready: Callable[[str], None],
) -> None:
    """Run ``count`` workers until SIGTERM or SIGINT (a second one skips the drain).

    SIGHUP replaces them one by one. ``config`` and ``app`` are the flags of these names; each
    worker reads the rest of its configuration when it starts. Calls ``on_ready`` with the address
    when all serve. Raises :class:`StartError`; a signal during the start cancels.
    """
    refuse_workers(settings)
    refuse_templates_of_one_process(TemplateContext.get_instance())
    loop = asyncio.get_running_loop()
    running = asyncio.current_task()

    def interrupt() -> None:
        if running is not None:
            running.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, interrupt)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    net = settings.netConfig
    async with AsyncExitStack() as life:
        ports = [await _shared_port(net.host, net.port, count, key="port")]
        life.callback(ports[0].close)
        if net.admin_port is not None:
            ports.append(await _shared_port(net.host, net.admin_port, count, key="admin_port"))
            life.callback(ports[1].close)
        folder = Path(
            life.enter_context(tempfile.TemporaryDirectory(prefix="chat-workers-", dir=_memory()))
        )
        heartbeats, metrics = folder / "heartbeats", folder / "metrics"
        heartbeats.mkdir()
        metrics.mkdir()
        cache_socket = await life.enter_async_context(_embedded_cache(settings))

        async def launch(number: int) -> Process:
            sockets = {port.key: port.descriptors(number) for port in ports}
            arguments = WorkerArguments(
                env=settings.templateConfig.env,
                config=str(config) if config else None,
                app=app,
                number=number,
                count=count,
                heartbeats=str(heartbeats),
                sockets=sockets,
                cache_socket=cache_socket,
            )
            return await asyncio.create_subprocess_exec(
                *arguments.command(),
                env={**os.environ, METRICS_FOLDER: str(metrics), "PYTHONPATH": _import_path()},
                # Its end tells the worker to retire, also when this process is killed.
                stdin=PIPE,
                stdout=PIPE,
                pass_fds=[descriptor for inherited in sockets.values() for descriptor in inherited],
                # Ctrl-C reaches this process alone, which ends the workers in order.
                start_new_session=True,
            )

        def renew(number: int) -> None:
            for port in ports:
                port.renew(number)

        def close_sockets() -> None:
            for port in ports:
                port.close()

        def forget(pid: int) -> None:
            """Remove its gauges, which are no longer true; its counts stay."""
            mark_process_dead(pid, str(metrics))  # type: ignore[no-untyped-call]

        supervisor = Supervisor(
            launch,
            count,
            Heartbeats(heartbeats, count),
            renew=renew,
            forget=forget,
            close_sockets=close_sockets,
            drain_s=net.quiet_s + net.drain_timeout_s,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stop)
        loop.add_signal_handler(signal.SIGHUP, supervisor.roll)
        await supervisor.run(lambda: on_ready(ports[0].url))


def _import_path() -> str:
    """This process's path, so that workers can import the same: a host may have extended it."""
    return os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)


def _memory() -> str | None:
    """A folder in memory, if any: on a full disk, mapped counts end a worker with SIGBUS."""
    return _SHM if os.access(_SHM, os.W_OK) else None


async def _shared_port(host: str, port: int, count: int, *, key: str) -> SharedPort:
    with suppress(PortInUse):
        return SharedPort(host, port, count, key=key)
    Logger.warn("port in use, waiting for it", port=port, longest_s=_PORT_WAIT_S)
    give_up_s = time.monotonic() + _PORT_WAIT_S
    while time.monotonic() < give_up_s:
        await asyncio.sleep(_PORT_LOOK_S)
        with suppress(PortInUse):
            return SharedPort(host, port, count, key=key)
    return SharedPort(host, port, count, key=key)


@asynccontextmanager
async def _embedded_cache(settings: ServerSettings) -> AsyncIterator[str | None]:
    """The socket of the Valkey that all workers share; None for an external Redis."""
    if settings.cacheConfig.type != "embedded":
        yield None
        return
    from base_server.service.cache.embedded import EmbeddedServer  # noqa: PLC0415 - needs POSIX file locks

    server = EmbeddedServer(settings.templateConfig.data_dir.absolute(), settings.cacheConfig)
    await server.start()
    try:
        yield server.client_settings().unix_socket_path
    finally:
        await server.stop()
