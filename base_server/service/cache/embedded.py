"""The embedded Redis-compatible server: a Valkey child process whose data lives in ``data_dir``."""

from __future__ import annotations

from pathlib import Path

from service.cache.cache_settings import CacheSettings
from service.core.errors import StartError


class EmbeddedServer:
    def __init__(self, data_dir: Path, settings: CacheSettings) -> None:
        self._settings = settings

    async def start(self) -> None:
        raise StartError("not yet")

    async def stop(self) -> None:
        return None

    def client_settings(self) -> CacheSettings:
        return self._settings
