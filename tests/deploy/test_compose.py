"""The compose files: consistent by reading them; and what the full one configures, run on real
servers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from application.base_web_server.__main__ import main
from application.base_web_server.config.environment import PREFIX, find_overrides
from application.base_web_server.config.loading import ServerSettings, load_settings
from application.base_web_server.config.warnings import find_warnings
from tests.backends_mariadb import MariaDbServer
from tests.backends_redis import RedisServer, find_server, free_port
from tests.deploy.deployment import DEPLOY, dotenv, filled, read_yaml
from tests.server_process import Client, ServerProcess, run_to_its_end, server_environment

FILES = ("docker/compose.demo.yaml", "docker/compose.full.yaml")
SECRETS = {
    name: f"secret-{name.lower()}"
    for name in ("REDIS_PASSWORD", "DATABASE_PASSWORD", "OPENAI_API_KEY")
}
VARIABLES = dotenv(DEPLOY / "docker/.env.example") | SECRETS | {"DEMO_WITHOUT_KEY": "false"}


def services(name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read_yaml(name)["services"]
    return found


def environment_of(service: dict[str, Any]) -> dict[str, str]:
    return {
        name: filled(str(value), VARIABLES)
        for name, value in service.get("environment", {}).items()
    }


@pytest.mark.parametrize("name", FILES)
def test_what_a_service_names_is_there(name: str) -> None:
    compose = read_yaml(name)
    folder = (DEPLOY / name).parent
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (
                (folder / source).exists()
                if source.startswith(".")
                else source in compose["volumes"]
            ), volume
        if "build" in service:
            context = folder / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file()
        # Ours is built here; the others have a fixed version.
        assert service["image"] == "chat-server" or re.search(r":v?\d+\.\d+", service["image"])
    assert set(compose["volumes"]) == {
        volume.partition(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }


@pytest.mark.parametrize("name", FILES)
def test_secrets_have_no_values_here(name: str) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+)", text))
    assert asked <= set(dotenv(DEPLOY / "docker/.env.example"))
    for line in text.splitlines():
        if re.search(r"(PASSWORD|KEY|AUTH)\w*: ", line):
            assert re.search(r": \$\{\w+(:\?|:-\})|: \$\{DEMO_WITHOUT_KEY:-false\}", line), line


@pytest.mark.parametrize("name", FILES)
def test_our_services_are_closed_and_have_time_to_stop(name: str) -> None:
    server = services(name)["server"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    env = "PROD" if "full" in name else "LOCAL"
    net = load_settings(env, environ={"BASE_SERVER__DATABASECONFIG__PASSWORD": "x"}).netConfig
    assert (
        int(server["stop_grace_period"].removesuffix("s")) >= net.quiet_s + net.drain_timeout_s + 20
    )


def test_settings_of_the_full_compose_file_give_no_warning() -> None:
    """The full ones settings are settings and nothing in them is doubtful."""
    environment = environment_of(services("docker/compose.full.yaml")["server"])
    ours = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    assert len(list(find_overrides(ServerSettings, {}, ours))) == len(ours) > 5
    settings = load_settings("PROD", environ=environment)
    assert find_warnings(settings) == []
    assert {
        shard.host or settings.databaseConfig.host for shard in settings.databaseConfig.shards
    } <= set(services("docker/compose.full.yaml"))


def test_the_servers_arguments_are_known() -> None:
    arguments = services("docker/compose.full.yaml")["server"]["command"]
    # Unknown ones end in argparse, with 2.
    assert main([*arguments, "--config", "/there/is/no/such/file"]) == 1


def test_prometheus_asks_the_port_that_has_the_metrics() -> None:
    config = read_yaml("prometheus/prometheus.yml")
    (target,) = config["scrape_configs"][0]["static_configs"][0]["targets"]
    service, _, port = target.partition(":")
    assert service in services("docker/compose.full.yaml")
    assert (
        int(port)
        == load_settings(
            "PROD", environ=SECRETS | {f"{PREFIX}DATABASECONFIG__PASSWORD": "x"}
        ).netConfig.admin_port
    )
    for file in config["rule_files"]:
        assert (DEPLOY / "prometheus" / file).is_file()


@pytest.fixture
def full(mariadb_server: MariaDbServer) -> Iterator[dict[str, str]]:
    """The full one's Redis for real with its options, one MariaDB in the place of both with its
    grants; the server's environment for them.
    """
    compose = services("docker/compose.full.yaml")
    options = [filled(str(word), VARIABLES) for word in compose["redis"]["command"]]
    redis = RedisServer(find_server("redis"), *options[1:])
    environment = environment_of(compose["server"])
    try:
        redis.start()
        made = environment_of(compose["mariadb-1"])
        mariadb_server.sql(
            f"CREATE USER '{made['MARIADB_USER']}'@'%' IDENTIFIED BY '{made['MARIADB_PASSWORD']}'"
        )
        grants = (DEPLOY / "docker/mariadb-grants.sql").read_text(encoding="utf-8")
        mariadb_server.sql(re.sub(r"^--.*$", "", grants, flags=re.MULTILINE))
        shards = json.loads(environment["BASE_SERVER__DATABASECONFIG__SHARDS"])
        for shard in shards:
            shard.pop("host", None)
        yield environment | {
            "BASE_SERVER__CACHECONFIG__HOST": "127.0.0.1",
            "BASE_SERVER__CACHECONFIG__PORT": str(redis.port),
            "BASE_SERVER__DATABASECONFIG__HOST": "127.0.0.1",
            "BASE_SERVER__DATABASECONFIG__PORT": str(mariadb_server.port),
            "BASE_SERVER__DATABASECONFIG__SHARDS": json.dumps(shards),
            "BASE_SERVER__NETCONFIG__HOST": "127.0.0.1",
            "BASE_SERVER__NETCONFIG__ADMIN_PORT": str(free_port()),
            "BASE_SERVER__NETCONFIG__QUIET_S": "0",
        }
    finally:
        redis.remove()
        mariadb_server.sql("DROP USER IF EXISTS 'base_server'@'%'")
        for name in ("chat_global", "chat_shard_1", "chat_shard_2"):
            mariadb_server.sql(f"DROP DATABASE IF EXISTS {name}")


async def test_the_full_one_serves_and_keeps_on_real_servers(
    full: dict[str, str], tmp_path: Path
) -> None:
    compose = services("docker/compose.full.yaml")
    migrate = [*compose["migrate"]["entrypoint"][2:], *compose["migrate"]["command"]]
    environment = server_environment(tmp_path / "data", full)
    applied = run_to_its_end(migrate, environment)
    assert applied.returncode == 0, applied.stderr
    server = ServerProcess(tmp_path / "data", env="PROD", changes=full, is_fresh=True)
    try:
        server.start()
        assert "doubtful" not in server.log
        async with aiohttp.ClientSession() as http:
            client = Client(http, server.base_url)
            await client.sign_in("alice")
            room = (await client.ok("/api/chat/room/create", ai_persona="DEMO"))["room"]["room_id"]
            await client.ok("/api/chat/message/send", room_id=room, content="hello")
            admin = f"http://127.0.0.1:{full['BASE_SERVER__NETCONFIG__ADMIN_PORT']}"
            async with http.get(admin + "/readyz?verbose") as answer:
                body = await answer.json()
        assert (body["status"], body["degraded"]) == ("ready", [])
        assert "database:shard2" in {check["name"] for check in body["checks"]}
    finally:
        assert server.stop() == 0
