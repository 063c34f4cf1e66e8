"""The doctor's looks at the machine and the configuration, each with something wrong."""

from __future__ import annotations

import io
import json
import resource
import shutil
import socket
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from application.base_web_server.config.loading import ServerSettings, load_settings
from application.manage.__main__ import main
from application.manage.finding import Finding, Level
from application.manage.machine_checks import check_descriptors, check_folder
from application.manage.settings_checks import check_ai, check_settings
from base_server.service.core.logger import configure_logging

PROVIDER = "BASE_SERVER__LLMCONFIG__PROVIDERS__OPENAI"


@pytest.fixture(autouse=True)
def _no_key_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def local(**environ: str) -> ServerSettings:
    return load_settings("LOCAL", environ=environ)


async def found_ai(env: str, **environ: str) -> dict[str, Finding]:
    environ = {"BASE_SERVER__DATABASECONFIG__PASSWORD": "x", **environ}
    settings = load_settings(env, environ=environ)  # type: ignore[arg-type]
    return {finding.what: finding for finding in await check_ai(settings)}


async def test_a_missing_key_is_bad_where_the_server_would_not_start() -> None:
    found = await found_ai("PROD")
    assert found["ai keys"].level is Level.BAD
    assert found["ai keys"].text.endswith("openai.api_key is missing (persona GPT4O needs it)")
    assert found["ai keys"].fix.startswith("set BASE_SERVER__LLMCONFIG__PROVIDERS__OPENAI__API_KEY")


async def test_a_demo_that_answers_for_a_persona_is_said() -> None:
    found = await found_ai("LOCAL")
    assert (found["ai keys"].level, found["ai keys"].text) == (
        Level.DOUBTFUL,
        "the offline demo answers for GPT4O",
    )
    assert list(found) == ["ai keys"]


async def test_a_provider_is_reached_or_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        good = await found_ai(
            "LOCAL", **{f"{PROVIDER}__BASE_URL": address, f"{PROVIDER}__API_KEY": "geheim"}
        )
    assert good["provider openai"].level is Level.GOOD
    assert good["ai keys"].level is Level.GOOD
    bad = await found_ai(
        "LOCAL", **{f"{PROVIDER}__BASE_URL": address, f"{PROVIDER}__API_KEY": "geheim"}
    )
    assert bad["provider openai"].level is Level.BAD
    assert "llmConfig.providers.openai.base_url" in bad["provider openai"].fix
    assert "geheim" not in str(bad)


def test_what_config_check_warns_of_is_found() -> None:
    (finding,) = check_settings(local(BASE_SERVER__CACHECONFIG__MAXMEMORY_MB="0"))
    assert (finding.level, finding.text[:24]) == (Level.DOUBTFUL, "cacheConfig.maxmemory_mb")
    assert finding.fix == "set a limit"


@pytest.mark.parametrize(
    ("free", "level"), [(10 << 20, Level.BAD), (500 << 20, Level.DOUBTFUL), (5 << 30, Level.GOOD)]
)
def test_a_disk_that_is_nearly_full(
    free: int, level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(free))
    settings = local(BASE_SERVER__TEMPLATECONFIG__DATA_DIR=str(tmp_path / "not" / "there"))
    assert [finding.level for finding in check_folder(settings)] == [Level.GOOD, level]


def test_too_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (8192, 8192))
    assert check_descriptors()[0].level is Level.GOOD
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 1024))
    (finding,) = check_descriptors()
    assert finding.level is Level.DOUBTFUL
    assert "LimitNOFILE" in finding.fix


@pytest.fixture
def _log() -> Iterator[None]:
    configure_logging("error", io.StringIO())
    yield
    configure_logging("debug")
    structlog.reset_defaults()


@pytest.mark.usefixtures("_log")
def test_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BASE_SERVER__TEMPLATECONFIG__DATA_DIR", str(tmp_path))
    monkeypatch.setenv("BASE_SERVER__NETCONFIG__PORT", "0")
    monkeypatch.setenv("BASE_SERVER__CACHECONFIG__TYPE", "redis")
    monkeypatch.setenv("BASE_SERVER__CACHECONFIG__PORT", "1")
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    (bad,) = (finding for finding in told["findings"] if finding["level"] == "bad")
    assert told["bad"] == 1
    assert bad["what"] == "redis"
    assert bad["mend"].startswith("start it, or set cacheConfig host, port, username, password")
    assert bad["text"].startswith("Redis at 127.0.0.1:1 cannot be used (cache: no connection")
    assert {finding["level"] for finding in told["findings"]} == {"good", "doubtful", "bad"}
