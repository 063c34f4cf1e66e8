"""All services of a server: made from their settings, started in order, stopped in reverse,
installed as façades."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from base_server.service.cache.cache_service import CacheService
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.errors import ServiceUnavailable, StartError
from base_server.service.core.facade import Facade
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.service.db.database_service import DatabaseService
from base_server.service.db.db_settings import DatabaseSettings
from base_server.service.llm.AIChat_service import AIChatService
from base_server.service.llm.llm_settings import LlmSettings
from base_server.service.lock.lock_service import LockService
from base_server.service.queue.queue_service import QueueService
from base_server.service.queue.queue_settings import QueueSettings
from base_server.service.scheduler.base_scheduler import ScheduleJob, ScheduleType
from base_server.service.scheduler.scheduler_service import SchedulerService
from base_server.service.scheduler.scheduler_settings import SchedulerSettings

_HERE = Path(__file__).resolve()
_IN_A_WHEEL = _HERE.with_name("db_scripts")
SCRIPTS_FOLDER = _IN_A_WHEEL if _IN_A_WHEEL.is_dir() else _HERE.parents[2] / "db_scripts"
_TASK_DRAIN_S = 5.0


@dataclass(frozen=True)
class ServiceSettings:
    """What the services need to know. ``data_dir`` is made if embedded servers keep their files
    there."""

    app_id: str
    env: str
    data_dir: Path
    cache: CacheSettings = field(default_factory=CacheSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    llm: LlmSettings = field(default_factory=LlmSettings)
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    scripts_dir: Path = SCRIPTS_FOLDER
    environ: Mapping[str, str] | None = None


class ServiceContainer:
    """One set of services. Its attributes are the objects; the class's static methods speak to the
    installed ones.

    Making it connects to nothing and installs nothing; :meth:`start` does both.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.tasks = TaskRegistry()
        self.cache = CacheService(
            settings.cache,
            app_id=settings.app_id,
            env=settings.env,
            partitions=settings.queue.partitions,
            data_dir=settings.data_dir,
        )
        self.locks = LockService(self.cache)
        self.database = DatabaseService(
            settings.database, settings.data_dir, settings.scripts_dir, env=settings.env
        )
        self.queue = QueueService(settings.queue, self.cache, self.locks, self.tasks)
        self.scheduler = SchedulerService(settings.scheduler, self.locks, self.tasks)
        self.ai = AIChatService(
            settings.llm, self.cache, self.tasks, settings.env, settings.environ or os.environ
        )
        self._running = AsyncExitStack()
        self._stop_timeout_s: float | None = None

    async def start(self) -> None:
        """Start everything or nothing. Raises :class:`StartError` with the fix."""
        try:
            await self._start()
        except BaseException as error:
            await self.stop()
            if isinstance(error, ServiceUnavailable):
                raise StartError(f"A needed server cannot be used: {error}.") from error
            raise

    async def stop(self, timeout_s: float | None = None) -> None:
        """Stop in reverse order, the rest too when one fails to; may be called twice.

        Jobs and deliveries under way get ``timeout_s`` (None: what their settings say), then they
        are cancelled.
        """
        self._stop_timeout_s = timeout_s
        await self._running.aclose()

    async def _start(self) -> None:
        if self.settings.cache.type == "embedded" or self.settings.database.type == "sqlite":
            _prepare(self.settings.data_dir)
        await self._begin(self.cache, self.cache.start, self.cache.stop)
        await self._begin(self.locks, _nothing, _nothing)
        await self._begin(self.database, self._start_database, self.database.stop)
        self._running.push_async_callback(self.tasks.drain, _TASK_DRAIN_S)
        await self._begin(
            self.queue, self.queue.start, lambda: self.queue.stop(self._stop_timeout_s)
        )
        await self._begin(
            self.scheduler, self.scheduler.start, lambda: self.scheduler.stop(self._stop_timeout_s)
        )
        await self.scheduler.add_job(
            ScheduleJob(
                job_id=f"database_shards:{secrets.token_hex(4)}",
                name="database shards",
                schedule_type=ScheduleType.INTERVAL,
                schedule_value=self.settings.database.shards_refresh_s,
                callback=self.database.follow_shards,
            )
        )
        await self._begin(self.ai, self.ai.start, self.ai.stop)

    async def _begin(
        self,
        service: Facade,
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[object]],
    ) -> None:
        await start()

        async def end() -> None:
            service.uninstall()
            try:
                await stop()
            except Exception as error:  # the others must be stopped all the same
                Logger.error(
                    "service did not stop cleanly", service=type(service).__name__, exc_info=error
                )

        self._running.push_async_callback(end)
        service.install()

    async def _start_database(self) -> None:
        await self.database.start()
        try:
            await self.database.claim_setting(
                "queue_partitions", str(self.settings.queue.partitions)
            )
        except BaseException:
            await self.database.stop()
            raise

    @staticmethod
    def get_cache_service() -> CacheService:
        return CacheService.get_instance()

    @staticmethod
    def get_lock_service() -> LockService:
        return LockService.get_instance()

    @staticmethod
    def get_database_service() -> DatabaseService:
        return DatabaseService.get_instance()

    @staticmethod
    def get_queue_service() -> QueueService:
        return QueueService.get_instance()

    @staticmethod
    def get_scheduler_service() -> SchedulerService:
        return SchedulerService.get_instance()

    @staticmethod
    def get_ai_chat_service() -> AIChatService:
        return AIChatService.get_instance()

    @staticmethod
    def is_cache_service_initialized() -> bool:
        return CacheService.is_installed()

    @staticmethod
    def is_lock_service_initialized() -> bool:
        return LockService.is_installed()

    @staticmethod
    def is_database_service_initialized() -> bool:
        return DatabaseService.is_installed()

    @staticmethod
    def is_queue_service_initialized() -> bool:
        return QueueService.is_installed()

    @staticmethod
    def is_scheduler_service_initialized() -> bool:
        return SchedulerService.is_installed()

    @staticmethod
    def is_ai_chat_service_initialized() -> bool:
        return AIChatService.is_installed()

    @staticmethod
    def get_service_status() -> dict[str, bool]:
        """Service name → whether it runs."""
        return {
            "cache": CacheService.is_installed(),
            "lock": LockService.is_installed(),
            "database": DatabaseService.is_installed(),
            "queue": QueueService.is_installed(),
            "scheduler": SchedulerService.is_installed(),
            "ai_chat": AIChatService.is_installed(),
        }


async def _nothing() -> None:
    """A service without a lifecycle of its own."""


def _prepare(data_dir: Path) -> None:
    fix = "name another folder in templateConfig.data_dir (BASE_SERVER__TEMPLATECONFIG__DATA_DIR)"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir):
            pass
    except OSError as error:
        raise StartError(
            f"The data folder {data_dir} cannot be written ({error.strerror}): {fix}."
        ) from None
