"""What ships is valid, the environment overrides it, errors name the key and never a secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from application.base_web_server.config.loading import (
    ENVIRONMENTS,
    ServerSettings,
    describe,
    load_settings,
)
from base_server.service.core.errors import StartError

SECRETS = {
    "BASE_SERVER__DATABASECONFIG__PASSWORD": "geheim-1",
    "BASE_SERVER__CACHECONFIG__PASSWORD": "geheim-2",
}


def load(content: dict[str, Any], folder: Path, **environ: str) -> ServerSettings:
    file = folder / "config.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return load_settings("LOCAL", file, environ)


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_the_shipped_files_are_valid(env: Any) -> None:
    settings = load_settings(env, environ=SECRETS)
    assert settings.templateConfig.env == env
    assert {shard.shard_id for shard in settings.databaseConfig.shards} == {1, 2}


def test_the_shipped_values_are_the_documents() -> None:
    chat = load_settings("LOCAL", environ={}).chatConfig
    assert (chat.room_list_ttl_s, chat.stream_ttl_s, chat.state_ttl_s) == (3600, 300, 86400)
    assert (chat.batch_size, chat.batch_interval_s, chat.lock_timeout_s, chat.lock_ttl_s) == (
        50,
        3,
        10,
        30,
    )


def test_the_environment_overrides_whatever_the_case_and_the_depth() -> None:
    settings = load_settings(
        "LOCAL",
        environ={
            "BASE_SERVER__CACHECONFIG__HOST": "12345",
            "base_server__netconfig__PORT": "9",
            "BASE_SERVER__NETCONFIG__ADMIN_PORT": "10",
            "BASE_SERVER__LLMCONFIG__PERSONAS__gpt4o__MODEL": "other",
            "BASE_SERVER__LLMCONFIG__DEMO_WITHOUT_KEY": "false",
            "BASE_SERVER__DATABASECONFIG__SHARDS": '[{"shard_id": 7, "database": "x"}]',
            "BASE_SERVER__CHATCONFIG__DEFAULT_SHARD_ID": "7",
            "BASE_SERVER__NETCONFIG__TRUSTED_PROXIES": '["10.0.0.0/8"]',
            "BASE_SERVERS": "not ours",
        },
    )
    assert (settings.cacheConfig.host, settings.netConfig.port, settings.netConfig.admin_port) == (
        "12345",
        9,
        10,
    )
    assert settings.llmConfig.personas["GPT4O"].model == "other"
    assert settings.llmConfig.demo_without_key is False
    assert [shard.shard_id for shard in settings.databaseConfig.shards] == [7]


MISTAKES: dict[str, tuple[dict[str, Any], dict[str, str], list[str]]] = {
    "unknown section": (
        {"netConfg": {}},
        {},
        ["config.json", "'netConfg'", "did you mean 'netConfig'"],
    ),
    "unknown key": (
        {"netConfig": {"prot": 1}},
        {},
        ["config.json", "'netConfig.prot'", "did you mean 'port'"],
    ),
    "text for a number": (
        {"netConfig": {"port": "80"}},
        {},
        ["'netConfig.port' = \"80\"", "integer"],
    ),
    "out of range": ({"netConfig": {"port": 70000}}, {}, ["'netConfig.port' = 70000", "65535"]),
    "bad list entry": (
        {"netConfig": {"trusted_proxies": ["x"]}},
        {},
        ["netConfig.trusted_proxies.0", '"x"'],
    ),
    "deep unknown key": (
        {"databaseConfig": {"shards": [{"shard_id": 1, "database": "a", "hots": "b"}]}},
        {},
        ["'databaseConfig.shards.0.hots'", "did you mean 'host'"],
    ),
    "variable with unknown key": (
        {},
        {"BASE_SERVER__NETCONFIG__PROT": "1"},
        ["BASE_SERVER__NETCONFIG__PROT", "port"],
    ),
    "variable of wrong type": (
        {},
        {"BASE_SERVER__NETCONFIG__PORT": "x"},
        ["BASE_SERVER__NETCONFIG__PORT", "'x'"],
    ),
    "variable out of range": (
        {},
        {"BASE_SERVER__NETCONFIG__PORT": "0x"},
        ["BASE_SERVER__NETCONFIG__PORT"],
    ),
    "variable too deep": ({}, {"BASE_SERVER__NETCONFIG__PORT__A": "1"}, ["netConfig.port.A"]),
    "variable that is no list": ({}, {"BASE_SERVER__NETCONFIG__CORS_ORIGINS": "x"}, ["not JSON"]),
    "no host of a provider": (
        {"llmConfig": {"providers": {"openai": {"base_url": "http:///v1"}}}},
        {},
        ["'llmConfig.providers.openai.base_url'", "must name a host"],
    ),
    "no port of a provider": (
        {"llmConfig": {"providers": {"openai": {"base_url": "http://a:99999/v1"}}}},
        {},
        ["'llmConfig.providers.openai.base_url'", "65535"],
    ),
    "no host": (
        {},
        {"BASE_SERVER__NETCONFIG__HOST": ""},
        ["BASE_SERVER__NETCONFIG__HOST", "host name or an address"],
    ),
    "no host in the file": (
        {"netConfig": {"host": ""}},
        {},
        ["config.json", "'netConfig.host'", "an address"],
    ),
    "no Redis host": (
        {"cacheConfig": {"host": " "}},
        {},
        ["'cacheConfig.host'", "host name or an address"],
    ),
    "no database host": (
        {"databaseConfig": {"host": ""}},
        {},
        ["'databaseConfig.host'", "host name or an address"],
    ),
    "two services on one port": (
        {"netConfig": {"admin_port": 8080}},
        {},
        ["'netConfig'", "admin_port: 8080 is port too", "null"],
    ),
    "kept beyond Redis' numbers": (
        {"netConfig": {"session_ttl_s": 10**16}},
        {},
        ["'netConfig.session_ttl_s'", "less than or equal to 315360000"],
    ),
    "no end of time": (
        {},
        {"BASE_SERVER__CHATCONFIG__LOAD_TIMEOUT_S": "inf"},
        ["LOAD_TIMEOUT_S", "finite"],
    ),
    "a default shard that is none": (
        {"chatConfig": {"default_shard_id": 9}},
        {},
        ["config.json", "'chatConfig.default_shard_id' = 9", "it has 1, 2"],
    ),
    "two shards in one database": (
        {
            "databaseConfig": {
                "shards": [{"shard_id": 1, "database": "a"}, {"shard_id": 2, "database": "a"}]
            }
        },
        {},
        ["'databaseConfig'", "shards 1 and 2 are one database, a;", "of its own"],
    ),
    "a shard in the global database": (
        {"databaseConfig": {"database": "g", "shards": [{"shard_id": 1, "database": "g"}]}},
        {},
        ["'databaseConfig'", "shard 1 and the global database are one, g", "of its own"],
    ),
    "another environment": (
        {"templateConfig": {"env": "PROD"}},
        {},
        ["templateConfig.env", "--env LOCAL"],
    ),
}


@pytest.mark.parametrize(("content", "environ", "named"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named_with_its_mend(
    tmp_path: Path, content: dict[str, Any], environ: dict[str, str], named: list[str]
) -> None:
    with pytest.raises(StartError) as mistake:
        load(content, tmp_path, **environ)
    for part in named:
        assert part in str(mistake.value)
    assert "\n" not in str(mistake.value)


TIMES_IN_REDIS = [
    ("netConfig", "session_ttl_s"), ("netConfig", "login_window_s"),
    ("netConfig", "signup_window_s"),
    ("queueConfig", "dedup_s"), ("queueConfig", "lock_ttl_s"), ("queueConfig", "retry_cap_s"),
    ("chatConfig", "room_list_ttl_s"), ("chatConfig", "message_list_ttl_s"),
    ("chatConfig", "stream_ttl_s"),
    ("chatConfig", "state_ttl_s"), ("chatConfig", "transition_log_ttl_s"),
    ("chatConfig", "lock_ttl_s"),
    ("chatConfig", "reply_deadline_s"), ("llmConfig", "conversation_ttl_s"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "key"), TIMES_IN_REDIS)
def test_no_time_is_longer_than_redis_takes(section: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=f"'{section}.{key}' = 9000000000000: .*less than"):
        load({section: {key: 9_000_000_000_000}}, tmp_path)


def test_shards_of_one_name_on_two_servers_are_two(tmp_path: Path) -> None:
    shards = [{"shard_id": n, "database": "a", "host": f"mysql-{n}"} for n in (1, 2)]
    settings = load({"databaseConfig": {"type": "mysql", "shards": shards}}, tmp_path)
    assert len(settings.databaseConfig.shards) == 2
    with pytest.raises(StartError, match="shards 1 and 2 are one database, a"):
        load({"databaseConfig": {"type": "sqlite", "shards": shards}}, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"netConfig": {}, "netConfig": {}}'])
def test_a_file_that_is_no_json_object_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.json"
    file.write_text(text)
    with pytest.raises(StartError, match=r"broken\.json"):
        load_settings("LOCAL", file, {})
    with pytest.raises(StartError, match=r"absent\.json"):
        load_settings("LOCAL", tmp_path / "absent.json", {})


def test_prod_without_a_database_password_names_the_variable() -> None:
    with pytest.raises(StartError, match="BASE_SERVER__DATABASECONFIG__PASSWORD"):
        load_settings("PROD", environ={})


def test_secrets_appear_nowhere(tmp_path: Path) -> None:
    settings = load_settings("DEBUG", environ=SECRETS)
    assert "geheim" not in repr(settings) + json.dumps(describe(settings))
    for secret in ({"password": ["geheim"]}, {"password": 12345678}, {"passwrd": "geheim"}):
        with pytest.raises(StartError) as mistake:
            load({"databaseConfig": secret}, tmp_path)
        assert "geheim" not in str(mistake.value)
        assert "12345678" not in str(mistake.value)
    key = {"llmConfig": {"providers": {"openai": {"api_key": 98765}}}}
    with pytest.raises(StartError) as mistake:
        load(key, tmp_path)
    assert "98765" not in str(mistake.value)
