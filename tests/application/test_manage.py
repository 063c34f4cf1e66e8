"""The operator's commands, called as their main function."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from application.base_web_server.config.loading import config_file
from application.manage.__main__ import main
from base_server.service.db.databases import Databases, apply_all, read_all_status
from base_server.service.db.db_settings import DatabaseSettings
from tests.backends_mariadb import SCRIPTS_DIR, DatabaseBackend
from tests.server_process import ServerProcess, run_to_its_end, server_environment


@pytest.fixture
def config(fresh_database_backend: DatabaseBackend, tmp_path: Path) -> Path:
    """A configuration file whose databases do not exist yet."""
    database: dict[str, Any] = fresh_database_backend.settings.model_dump(
        mode="json", exclude={"password"}
    )
    for shard in database["shards"]:
        shard.pop("password")
    path = tmp_path / "config.json"
    template = {"appId": "t", "env": "DEBUG", "data_dir": str(tmp_path)}
    path.write_text(json.dumps({"templateConfig": template, "databaseConfig": database}))
    return path


def run(config: Path, *command: str) -> int:
    return main(["--env", "DEBUG", "--config", str(config), *command])


def test_apply_makes_the_databases_and_status_says_so(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, "db", "status") == 1
    assert "pending  tables/0001_chat_rooms" in capsys.readouterr().out
    assert run(config, "db", "apply") == 0
    assert re.search(r"applied \d\d scripts", capsys.readouterr().out)
    assert run(config, "db", "status") == 0
    assert capsys.readouterr().out.count(": current\n") == 3
    assert run(config, "db", "apply") == 0
    assert capsys.readouterr().out.count(": was current\n") == 3


def test_apply_of_an_older_version_is_refused_unless_asked_for(
    config: Path,
    fresh_database_backend: DatabaseBackend,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """cases/faults.md U7, over the command line; the newer version's scripts are a changed copy of
    these.
    """
    assert run(config, "db", "apply") == 0
    backend, scripts = fresh_database_backend, tmp_path / "newer"
    shutil.copytree(SCRIPTS_DIR, scripts)
    number = int((scripts / "VERSION").read_text().split()[0])
    (scripts / "VERSION").write_text(f"{number + 1} digest\n")
    for path in scripts.glob("*/shard/procedures/fp_chat_message_find.sql"):
        path.write_text(f"{path.read_text()}\n")
    newer = Databases(backend.settings, data_dir=backend.data_dir, scripts_dir=scripts)
    asyncio.run(apply_all(newer, backend.settings))
    capsys.readouterr()

    assert run(config, "db", "apply") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        f"a newer version was applied: its scripts have number {number + 1}, these {number}" in said
    )
    assert said.endswith(": python -m application.manage --env DEBUG db apply --downgrade")
    assert run(config, "db", "status") == 1
    said = capsys.readouterr().out
    assert (
        said.count(
            f"a newer version was applied: its scripts have number {number + 1}, these {number}"
        )
        == 3
    )
    assert said.count("newer    procedures/fp_chat_message_find") == 2
    assert run(config, "doctor") == 1
    assert "db apply --downgrade" in capsys.readouterr().out
    assert all(
        status.is_current for status in asyncio.run(read_all_status(newer, backend.settings))
    )

    assert run(config, "db", "apply", "--downgrade") == 0
    assert capsys.readouterr().out.count("procedures/fp_chat_message_find") == 2
    run(config, "db", "status")
    assert "NOT current" not in capsys.readouterr().out


def test_start_of_an_older_local_server_is_refused(tmp_path: Path) -> None:
    """cases/faults.md U7: LOCAL applies its scripts at every start."""
    data_dir, scripts = tmp_path / "data", tmp_path / "newer"
    environment = server_environment(data_dir)
    start = ["application.base_web_server", "--env", "LOCAL"]
    shutil.copytree(SCRIPTS_DIR, scripts)
    (scripts / "VERSION").write_text("1000000 digest\n")
    path = scripts / "sqlite/global/procedures/fp_account_get.sql"
    path.write_text(f"{path.read_text()}\n")
    settings = DatabaseSettings()
    newer = Databases(settings, data_dir=data_dir, scripts_dir=scripts)
    asyncio.run(apply_all(newer, settings))
    refused = run_to_its_end(start, environment)
    assert refused.returncode == 1
    assert "a newer version was applied" in refused.stderr.splitlines()[-1]
    fix = "application.manage --env LOCAL db apply --downgrade"
    assert refused.stderr.splitlines()[-1].endswith(f": python -m {fix}")
    assert all(status.is_current for status in asyncio.run(read_all_status(newer, settings)))
    assert run_to_its_end(fix.split(), environment).returncode == 0
    server = ServerProcess(data_dir)
    try:
        server.start()
    finally:
        server.stop()


def test_old_name_of_freeze_warns_and_runs(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if json.loads(config.read_text())["databaseConfig"]["type"] != "sqlite":
        pytest.skip("a MySQL shard would be frozen")
    assert run(config, "db", "fence", "--shard", "1") == 1
    error = capsys.readouterr().err
    assert "db fence is now db freeze" in error
    assert "a SQLite shard needs no freeze" in error


def test_a_server_that_is_away_is_one_line(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if json.loads(config.read_text())["databaseConfig"]["type"] == "sqlite":
        pytest.skip("SQLite has no server")
    monkeypatch.setenv("BASE_SERVER__DATABASECONFIG__PORT", "1")
    for command in ("apply", "status"):
        assert run(config, "db", command) == 1
        error = capsys.readouterr().err
        where, said = error.splitlines()
        assert where == f"Environment DEBUG: {config} and 1 BASE_SERVER__ variable."
        assert said.startswith("error: database: ")
        assert "127.0.0.1:1" in said
        assert "set databaseConfig host and port (BASE_SERVER__DATABASECONFIG__HOST" in said


def test_a_wrong_password_is_one_line_that_names_where_to_set_it(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if json.loads(config.read_text())["databaseConfig"]["type"] == "sqlite":
        pytest.skip("SQLite has no passwords")
    monkeypatch.setenv("BASE_SERVER__DATABASECONFIG__USER", "nobody")
    monkeypatch.setenv("BASE_SERVER__DATABASECONFIG__PASSWORD", "geheim")
    for command in (("db", "apply"), ("db", "status"), ("doctor",)):
        assert run(config, *command) == 1
        said = "".join(capsys.readouterr())
        assert "Access denied" in said
        assert "set databaseConfig user and password (BASE_SERVER__DATABASECONFIG__USER, " in said
        assert "geheim" not in said


def test_a_command_says_what_it_is_about_to_act_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BASE_SERVER__TEMPLATECONFIG__DATA_DIR", str(tmp_path))
    monkeypatch.setenv("BASE_SERVER__NETCONFIG__PORT", "0")
    monkeypatch.setenv("OPENAI_API_KEY", "geheim")
    for command in ("db status", "queue stats", "dlq list", "doctor --json", "config print"):
        main(command.split())
        output = capsys.readouterr()
        assert (
            output.err == f"Environment LOCAL: {config_file('LOCAL')}, OPENAI_API_KEY"
            " and 2 BASE_SERVER__ variables.\n"
        )
        assert "BASE_SERVER__ variables" not in output.out


PASSWORD = {"DATABASECONFIG__PASSWORD": "of the test"}
KEY = {"LLMCONFIG__PROVIDERS__OPENAI__API_KEY": "of the test", **PASSWORD}
REFUSED: dict[str, tuple[str, dict[str, str], str]] = {
    "no key of a provider": ("PROD", PASSWORD, "llmConfig.providers.openai.api_key is missing"),
    "no certificates of the database": (
        "PROD",
        KEY | {"DATABASECONFIG__TLS": "true", "DATABASECONFIG__TLS_CA_FILE": "/not/there.pem"},
        "databaseConfig.tls_ca_file /not/there.pem",
    ),
    "no certificates of Redis": (
        "PROD",
        KEY | {"CACHECONFIG__TLS": "true", "CACHECONFIG__TLS_CA_FILE": "/not/there.pem"},
        "cacheConfig.tls_ca_file /not/there.pem",
    ),
    "a shard that is none": (
        "LOCAL",
        {"CHATCONFIG__DEFAULT_SHARD_ID": "9"},
        "no such shard, it has 1, 2",
    ),
    "a package that is not there": (
        "LOCAL",
        KEY | {"LLMCONFIG__PROVIDERS__OPENAI__INTEGRATION": "deepseek"},
        "pip install langchain-deepseek",
    ),
    "an option that no model knows": (
        "LOCAL",
        KEY | {"LLMCONFIG__PERSONAS__GPT4O__OPTIONS": '{"tempo": 1}'},
        "does not know tempo",
    ),
}


@pytest.mark.parametrize(("env", "changes", "named"), REFUSED.values(), ids=REFUSED)
def test_what_a_start_refuses_is_refused_by_check_in_the_same_words(
    env: str,
    changes: dict[str, str],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = server_environment(
        tmp_path / "data", {f"BASE_SERVER__{name}": text for name, text in changes.items()}
    )
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name in set(environ) - set(os.environ):
        monkeypatch.setenv(name, environ[name])
    assert main(["--env", env, "config", "check"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert named in said
    ended = run_to_its_end(["application.base_web_server", "--env", env], environ)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (1, said)


@pytest.mark.parametrize("env", ["LOCAL", "DEBUG"])
def test_the_shipped_configuration_is_good(env: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--env", env, "config", "check"]) == 0
    assert "is good" in capsys.readouterr().out


def test_print_hides_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASE_SERVER__DATABASECONFIG__PASSWORD", "geheim")
    assert main(["config", "print"]) == 0
    printed = capsys.readouterr().out
    assert "geheim" not in printed
    assert json.loads(printed)["databaseConfig"]["password"] == "**********"


def test_a_wrong_configuration_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"databaseConfig": {"hots": 1}}')
    assert main(["--config", str(path), "config", "check"]) == 1
    error = capsys.readouterr().err
    assert "hots" in error
    assert error.count("\n") == 1


def test_the_doctor_knows_the_databases(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASE_SERVER__CACHECONFIG__TYPE", "redis")
    monkeypatch.setenv("BASE_SERVER__CACHECONFIG__PORT", "1")
    monkeypatch.setenv("BASE_SERVER__NETCONFIG__PORT", "0")
    monkeypatch.setenv("BASE_SERVER__LLMCONFIG__DEMO_WITHOUT_KEY", "true")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    is_server = json.loads(config.read_text())["databaseConfig"]["type"] == "mysql"
    assert run(config, "doctor") == 1
    before = capsys.readouterr().out
    assert ("fix: python -m application.manage --env DEBUG db apply" in before) is is_server
    run(config, "db", "apply")
    capsys.readouterr()
    run(config, "doctor")
    said = capsys.readouterr().out
    for name in ("global", "shard1", "shard2"):
        assert f"ok   database:{name}: database " in said
        assert f"database:{name}: a commit " in said
    assert (said.count("its clock is 0.") == 3) is is_server
    assert said.count("BAD ") == 1
    monkeypatch.setenv("BASE_SERVER__QUEUECONFIG__PARTITIONS", "8")
    run(config, "doctor")
    assert "set queueConfig.partitions to 16" in capsys.readouterr().out
