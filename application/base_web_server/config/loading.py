"""The configuration: one JSON file per environment, overridden by environment variables."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jiter
from pydantic import Field, ValidationError

from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.errors import StartError
from base_server.service.core.settings import Settings
from base_server.service.db.db_settings import DatabaseSettings
from base_server.service.llm.llm_settings import LlmSettings
from base_server.service.queue.queue_settings import QueueSettings
from base_server.service.scheduler.scheduler_settings import SchedulerSettings
from base_server.template.base.template_config import TemplateSettings
from base_server.template.chat.settings import ChatSettings

from .environment import (
    PREFIX,
    Override,
    annotation_at,
    find_overrides,
    is_secret,
    known_keys,
    put,
    suggestion,
)
from .net_settings import NetSettings

Environment = Literal["LOCAL", "DEBUG", "PROD"]
ENVIRONMENTS: tuple[Environment, ...] = get_args(Environment)
_HERE = Path(__file__).resolve()
_IN_A_WHEEL = _HERE.parents[2] / "config"
CONFIG_FOLDER = _IN_A_WHEEL if _IN_A_WHEEL.is_dir() else _HERE.parents[3] / "config"
_FILES = {
    "LOCAL": "base_web_server-config_local.json",
    "DEBUG": "base_web_server-config_debug.json",
    "PROD": "base_web_server-config.json",
}


class ServerSettings(Settings):
    """The whole file; a missing section has its default values."""

    templateConfig: TemplateSettings = Field(default_factory=TemplateSettings)
    """Which installation this is and where it keeps its files."""
    netConfig: NetSettings = Field(default_factory=NetSettings)
    """Where the server listens and what it accepts."""
    cacheConfig: CacheSettings = Field(default_factory=CacheSettings)
    """Which Redis, and how to reach it."""
    queueConfig: QueueSettings = Field(default_factory=QueueSettings)
    """Queues and their limits."""
    databaseConfig: DatabaseSettings = Field(default_factory=DatabaseSettings)
    """The global database and the shards."""
    chatConfig: ChatSettings = Field(default_factory=ChatSettings)
    """Rooms, messages, replies."""
    llmConfig: LlmSettings = Field(default_factory=LlmSettings)
    """Personas, the providers that answer for them, and the limits of a reply."""
    schedulerConfig: SchedulerSettings = Field(default_factory=SchedulerSettings)
    """Scheduled jobs."""


def config_file(env: Environment) -> Path:
    """The file that is read for ``env`` when none is named."""
    return CONFIG_FOLDER / _FILES[env]


def load_settings(
    env: Environment,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    app: str | None = None,
) -> ServerSettings:
    """Read, override and validate; ``app`` (the flag --app) wins over ``netConfig.app``.

    Raises :class:`StartError` with the file, the key, the value and the fix.
    """
    path = file or config_file(env)
    data = _read(path)
    overrides = list(
        find_overrides(ServerSettings, data, os.environ if environ is None else environ)
    )
    for override in overrides:
        put(data, override)
    if app is not None:
        put(data, Override("--app", ("netConfig", "app"), app))
    try:
        settings = ServerSettings.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise _explained(error, path, data, overrides) from None
    if settings.templateConfig.env != env:
        raise StartError(
            f"{path}: templateConfig.env is '{settings.templateConfig.env}', but the server was"
            f" started with --env {env}: start it with --env {settings.templateConfig.env} or name"
            " another file."
        )
    _check_secrets(settings, path)
    _check_default_shard(settings, path, overrides)
    return settings


def describe(settings: ServerSettings) -> dict[str, Any]:
    """The configuration as JSON values, with secrets hidden."""
    return settings.model_dump(mode="json")


def _read(path: Path) -> dict[str, Any]:
    try:
        data = jiter.from_json(path.read_bytes(), allow_inf_nan=False, catch_duplicate_keys=True)
    except OSError as error:
        raise StartError(
            f"Cannot read the configuration {path}: {error.strerror}; name another with --config."
        ) from None
    except ValueError as error:
        raise StartError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(data, dict):
        raise StartError(
            f"{path} must hold a JSON object with the sections"
            f" {', '.join(ServerSettings.model_fields)}."
        )
    data.pop("$schema", None)  # for editors: config/schema.json
    return data


def _explained(
    error: ValidationError, path: Path, data: Any, overrides: list[Override]
) -> StartError:
    """The first problem as one line."""
    problem = error.errors(include_url=False)[0]
    loc = tuple(part for part in problem["loc"] if part != "[key]")
    source = _source_of(loc, path, overrides)
    key = ".".join(str(part) for part in loc)
    if problem["type"] == "extra_forbidden":
        fix = suggestion(str(loc[-1]), known_keys(ServerSettings, loc[:-1]))
        return StartError(f"Configuration error in {source}: unknown key '{key}'; {fix}")
    seen = _value_at(data, loc)
    if is_secret(annotation_at(ServerSettings, loc)):
        shown = " (value hidden)"
    else:
        shown = (
            ""
            if seen is None or isinstance(seen, (dict, list))
            else f" = {json.dumps(seen, ensure_ascii=False)[:80]}"
        )
    reason = problem["msg"].removeprefix("Value error, ")
    return StartError(f"Configuration error in {source}: '{key}'{shown}: {reason}.")


def _source_of(loc: tuple[str | int, ...], path: Path, overrides: list[Override]) -> str:
    return next(
        (f"environment variable {o.variable}" for o in overrides if o.path == loc[: len(o.path)]),
        str(path),
    )


def _value_at(data: Any, loc: tuple[str | int, ...]) -> Any:
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _check_secrets(settings: ServerSettings, path: Path) -> None:
    """PROD needs a database password. The AI service checks the keys of AI providers at start."""
    database = settings.databaseConfig
    needs_password = settings.templateConfig.env == "PROD" and database.type == "mysql"
    if needs_password and not database.password.get_secret_value():
        raise StartError(
            f"Configuration error in {path}: 'databaseConfig.password' is missing;"
            f" set it with the environment variable {PREFIX}DATABASECONFIG__PASSWORD."
        )


def _check_default_shard(settings: ServerSettings, path: Path, overrides: list[Override]) -> None:
    """New accounts must not be assigned to a shard that does not exist."""
    chosen = settings.chatConfig.default_shard_id
    if settings.databaseConfig.shard(chosen) is None:
        known = ", ".join(str(shard.shard_id) for shard in settings.databaseConfig.shards)
        source = _source_of(("chatConfig", "default_shard_id"), path, overrides)
        raise StartError(
            f"Configuration error in {source}: 'chatConfig.default_shard_id' = {chosen}:"
            f" databaseConfig.shards has no such shard, it has {known}; name one of them."
        )
