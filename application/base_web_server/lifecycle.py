"""The server from start to stop: ordered start, and quiet → drain → close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from base_server.service.core.errors import ServiceError, StartError
from base_server.service.core.logger import Logger
from base_server.service.service_container import ServiceContainer, ServiceSettings
from base_server.template.base.base_template import BaseTemplate
from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_service import TemplateService

from .config.loading import ServerSettings
from .http.app import build_admin_app, build_app
from .http.listener import HttpListener
from .observability.durability_watch import DurabilityWatch
from .observability.health import HealthMonitor
from .observability.metrics import Metrics
from .observability.readiness import Phase
from .templates import add_templates, create_session_store
from .workers.context import WorkerContext, WorkersHealth

if TYPE_CHECKING:
    from .observability.tracing import Tracing

_HURRIED_STOP_S = 2.0
_IDLE_S = 5.0
"""How long a retired worker keeps idle connections, for a last request on each."""


class Server:
    """One server process. The constructor connects to nothing; :meth:`run` is its whole life.

    It starts the listener (which returns "starting"), the services, the templates, and is ready
    when the AI models are; it stops in reverse. A ``worker`` opens its listener last, since other
    workers serve meanwhile.
    """

    def __init__(
        self,
        settings: ServerSettings,
        context: TemplateContext | None = None,
        worker: WorkerContext | None = None,
    ) -> None:
        self._settings = settings
        self._context = context or TemplateContext.get_instance()
        self._container = ServiceContainer(_service_settings(settings))
        sessions = create_session_store(self._container, settings.netConfig)
        add_templates(self._context, self._container, settings, sessions)
        self._durability = DurabilityWatch(self._container)
        self._health = HealthMonitor(self._container, self._context, self._durability)
        self._hurried = asyncio.Event()
        self._worker = worker
        self._is_retired = False
        net = settings.netConfig
        of_workers = (worker.heartbeats.processes, worker.number) if worker else ()
        self._metrics = metrics = Metrics(self._container.queue, *of_workers)
        service = TemplateService(
            sessions, status_for_errors=net.http_status_for_errors, observe=metrics.observe
        )
        report = WorkersHealth(self._health, worker) if worker else self._health
        app = build_app(net, self._context, service, report, metrics, lambda: not self.is_starting)
        self._tracing = _tracing(net.traces_endpoint)
        if self._tracing is not None:
            app.middlewares.insert(0, self._tracing.middleware())
        self._listeners = [self._listener(app, net.port, "port")]
        if net.admin_port is not None:
            admin = build_admin_app(net, service, report, metrics)
            self._listeners.append(self._listener(admin, net.admin_port, "admin_port"))

    @property
    def is_starting(self) -> bool:
        return self._health.phase is Phase.STARTING

    def hurry(self) -> None:
        """Skip the rest of quiet and drain; unfinished work is recovered as after a kill."""
        self._hurried.set()

    def retire(self) -> None:
        """Call it before ``stop`` is set: close connections first, since others serve the port."""
        self._is_retired = True

    async def check(self) -> None:
        """Raise :class:`StartError` for errors that can be found without connecting anywhere.

        The constructor finds the others of these.
        """
        await self._container.ai.check()

    async def run(self, stop: asyncio.Event, on_ready: Callable[[str], None]) -> None:
        """Start, call ``on_ready`` with the address, serve until ``stop`` is set, drain, close.

        Raises :class:`StartError`.
        """
        async with AsyncExitStack() as life:
            life.callback(self._context.clear)
            if self._tracing is not None:
                await life.enter_async_context(self._tracing.installed())
            if self._worker is None:
                await self._open(life)
            await life.enter_async_context(self._services())
            await self._durability.start()
            life.push_async_callback(self._durability.stop)
            for template in self._context.templates().values():
                await life.enter_async_context(self._started(template))
            # Imports take seconds of CPU, which would delay the first send and all other requests.
            await self._container.ai.wait_until_ready()
            self._health.phase = Phase.READY
            if self._worker is not None:
                await life.enter_async_context(
                    self._worker.beating(self._health, self._container.tasks, self._metrics.flush)
                )
                await self._open(life)
            on_ready(self._listeners[0].url)
            await stop.wait()
            Logger.info("server drains", retired=self._is_retired)
            self._health.phase = Phase.DRAINING
            if self._worker is not None:
                self._worker.beat(await self._health.readiness())
            await self._quiet_and_drain()
            # Requests end before the services that they use; the exit stack closes nothing twice.
            for listener in self._listeners:
                await listener.close()
        Logger.info("server stopped")

    def _listener(self, app: web.Application, port: int, key: str) -> HttpListener:
        sockets = self._worker.sockets[key] if self._worker else ()
        return HttpListener(app, self._settings.netConfig.host, port, key=key, sockets=sockets)

    async def _open(self, life: AsyncExitStack) -> None:
        for listener in self._listeners:
            await life.enter_async_context(_listening(listener))

    async def _quiet_and_drain(self) -> None:
        templates = list(self._context.templates().values())
        timeout_s = self._settings.netConfig.drain_timeout_s
        if self._is_retired:
            leaving = (
                self._attempt("retire", None, listener.retire(_IDLE_S))
                for listener in self._listeners
            )
            await asyncio.gather(*leaving)
        for template in templates:
            await self._attempt("quiet", template, template.quiet())
        if not self._is_retired:
            await self._attempt("wait", None, asyncio.sleep(self._settings.netConfig.quiet_s))
        drains = (
            self._attempt("drain", template, template.drain(timeout_s)) for template in templates
        )
        await asyncio.gather(*drains)

    async def _attempt(
        self, step: str, template: BaseTemplate | None, work: Coroutine[Any, Any, None]
    ) -> None:
        """Run ``work`` until it ends or the server is hurried; a failure is logged."""
        task = asyncio.create_task(work)
        hurried = asyncio.create_task(self._hurried.wait())
        try:
            await asyncio.wait({task, hurried}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurried.cancel()
            task.cancel()
            (outcome, _) = await asyncio.gather(task, hurried, return_exceptions=True)
        if isinstance(outcome, Exception):
            Logger.error(
                "step of the stop failed",
                step=step,
                template=type(template).__name__,
                exc_info=outcome,
            )

    @asynccontextmanager
    async def _services(self) -> AsyncIterator[None]:
        await self._container.start()
        try:
            yield
        finally:
            await self._container.stop(_HURRIED_STOP_S if self._hurried.is_set() else None)

    @asynccontextmanager
    async def _started(self, template: BaseTemplate) -> AsyncIterator[None]:
        try:
            await template.start()
        except ServiceError as error:
            raise StartError(f"{type(template).__name__} cannot start: {error}.") from error
        try:
            yield
        finally:
            await self._stop(template)

    async def _stop(self, template: BaseTemplate) -> None:
        try:
            async with asyncio.timeout(_HURRIED_STOP_S if self._hurried.is_set() else None):
                await template.stop()
        except Exception as error:  # the other templates must still be stopped
            Logger.error(
                "template did not stop cleanly", template=type(template).__name__, exc_info=error
            )


@asynccontextmanager
async def _listening(listener: HttpListener) -> AsyncIterator[None]:
    await listener.open()
    try:
        yield
    finally:
        await listener.close()


def _tracing(endpoint: str | None) -> Tracing | None:
    """Raises :class:`StartError` when its packages are missing."""
    if endpoint is None:
        return None
    from .observability.tracing import Tracing  # noqa: PLC0415 - an extra

    return Tracing(endpoint)


def _service_settings(settings: ServerSettings) -> ServiceSettings:
    return ServiceSettings(
        app_id=settings.templateConfig.appId,
        env=settings.templateConfig.env,
        data_dir=settings.templateConfig.data_dir.absolute(),
        cache=settings.cacheConfig,
        queue=settings.queueConfig,
        database=settings.databaseConfig,
        llm=settings.llmConfig,
        scheduler=settings.schedulerConfig,
    )
