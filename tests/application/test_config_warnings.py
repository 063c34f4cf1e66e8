"""What is allowed and seldom meant is said, with its key; what ships is quiet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from application.base_web_server.config.loading import ENVIRONMENTS, load_settings
from application.base_web_server.config.warnings import find_warnings
from application.manage.__main__ import main
from tests.server_process import running_server

SECRETS = {"PROD": {"BASE_SERVER__DATABASECONFIG__PASSWORD": "of the test"}}
DOUBTFUL = {
    "a public address without an admin port": (
        "LOCAL",
        {"NETCONFIG__HOST": "0.0.0.0"},
        "netConfig.admin_port",
    ),
    "every page may call": (
        "LOCAL",
        {"NETCONFIG__CORS_ORIGINS": '["*"]'},
        "netConfig.cors_origins",
    ),
    "everybody is a trusted proxy": (
        "LOCAL",
        {"NETCONFIG__TRUSTED_PROXIES": '["0.0.0.0/0"]'},
        "trusted_proxies",
    ),
    "debug in PROD": ("PROD", {"NETCONFIG__LOG_LEVEL": "debug"}, "netConfig.log_level"),
    "no fsync": ("LOCAL", {"CACHECONFIG__APPENDFSYNC": "no"}, "cacheConfig.appendfsync"),
    "no memory limit": ("LOCAL", {"CACHECONFIG__MAXMEMORY_MB": "0"}, "cacheConfig.maxmemory_mb"),
    "a Redis that is not asked": (
        "LOCAL",
        {"CACHECONFIG__HOST": "redis.example", "CACHECONFIG__PASSWORD": "geheim"},
        "cacheConfig.host, password are set and not used: cacheConfig.type is embedded;"
        " set cacheConfig.type to redis",
    ),
    "a database server that is not asked": (
        "LOCAL",
        {"DATABASECONFIG__PASSWORD": "geheim"},
        "databaseConfig.password is set and not used: databaseConfig.type is sqlite;"
        " set databaseConfig.type to mysql",
    ),
    "a shard's server that is not asked": (
        "LOCAL",
        {"DATABASECONFIG__SHARDS": '[{"shard_id": 1, "database": "a", "host": "mysql-1"}]'},
        "databaseConfig.shards.0.host is set and not used",
    ),
    "a volatile Redis in PROD": (
        "PROD",
        {"CACHECONFIG__ACCEPT_VOLATILE": "true"},
        "cacheConfig.accept_volatile",
    ),
    "a remote Redis without a password": (
        "PROD",
        {"CACHECONFIG__HOST": "redis.example"},
        "cacheConfig.password",
    ),
    "root in PROD": ("PROD", {"DATABASECONFIG__USER": "root"}, "databaseConfig.user"),
    "a demo in PROD": (
        "PROD",
        {"LLMCONFIG__DEMO_WITHOUT_KEY": "true"},
        "llmConfig.demo_without_key",
    ),
    "a key over http": (
        "DEBUG",
        {
            "LLMCONFIG__PROVIDERS__OPENAI__BASE_URL": "http://models.example/v1",
            "LLMCONFIG__PROVIDERS__OPENAI__API_KEY": "geheim",
        },
        "llmConfig.providers.openai.base_url",
    ),
}


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_what_ships_is_quiet(env: Any) -> None:
    assert find_warnings(load_settings(env, environ=SECRETS.get(env, {}))) == []


@pytest.mark.parametrize(("env", "changes", "key"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_it_is_said(env: Any, changes: dict[str, str], key: str) -> None:
    environ = SECRETS.get(env, {}) | {
        f"BASE_SERVER__{name}": value for name, value in changes.items()
    }
    (warning,) = find_warnings(load_settings(env, environ=environ))
    assert key in str(warning)
    assert warning.fix
    assert "geheim" not in str(warning)


def test_a_local_model_may_be_reached_over_http() -> None:
    environ = {
        "BASE_SERVER__LLMCONFIG__PROVIDERS__OPENAI__BASE_URL": "http://[::1]:11434/v1",
        "BASE_SERVER__LLMCONFIG__PROVIDERS__OPENAI__API_KEY": "unused",
    }
    assert find_warnings(load_settings("LOCAL", environ=environ)) == []


def test_config_check_prints_them_and_the_server_logs_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASE_SERVER__CACHECONFIG__MAXMEMORY_MB", "0")
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out.startswith("warning: cacheConfig.maxmemory_mb is 0")
    with running_server(tmp_path / "data", BASE_SERVER__CACHECONFIG__MAXMEMORY_MB="0") as server:
        (line,) = (
            json.loads(line) for line in server.log.splitlines() if "doubtful configuration" in line
        )
    assert line["level"] == "warning"
    assert line["warning"].startswith("cacheConfig.maxmemory_mb is 0")
