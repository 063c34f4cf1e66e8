"""Signals between processes: to all listeners, in every partition, also after a lost connection."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from pydantic import SecretStr

from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import ServiceNotRunning
from base_server.service.redis_client.errors import CacheCommandError
from base_server.service.redis_client.script import Script
from tests.backends_redis import CacheBackend, RedisServer, make_cache, running_cache
from tests.waiting import until


async def test_a_signal_reaches_every_handler_whose_pattern_matches(cache: CacheService) -> None:
    heard: list[tuple[str, ...]] = []
    assert await cache.subscribe(
        "stop:*", lambda channel, text: heard.append(("all", channel, text))
    )
    assert await cache.subscribe(
        "stop:*", lambda channel, text: heard.append(("again", channel, text))
    )
    assert await cache.subscribe("stop:b", lambda channel, text: heard.append(("b", channel, text)))
    redis = cache.get_client()
    await redis.publish("stop:a", "값 1")
    await redis.publish("other:a", "for nobody")
    await redis.publish("stop:b", "2", partition=3)
    await until(lambda: len(heard) >= 5)
    assert sorted(heard) == [
        ("again", "stop:a", "값 1"),
        ("again", "stop:b", "2"),
        ("all", "stop:a", "값 1"),
        ("all", "stop:b", "2"),
        ("b", "stop:b", "2"),
    ]


async def test_a_script_can_signal_in_its_own_step(cache: CacheService) -> None:
    heard: list[str] = []
    await cache.subscribe("stop:*", lambda channel, text: heard.append(text))
    redis = cache.get_client()
    await redis.run_script(
        Script("signal", "redis.call('PUBLISH', KEYS[1], ARGV[1])"), [redis.key("stop:a")], ["now"]
    )
    await until(lambda: heard == ["now"])


async def test_a_signal_that_is_no_text_does_not_end_the_listening(
    real_cache: CacheService,
) -> None:
    heard: list[str] = []
    await real_cache.subscribe("stop:*", lambda channel, text: heard.append(text))
    redis = real_cache.get_client()
    await redis.execute("PUBLISH", redis.key("stop:a"), b"\xff\xfe")

    async def hears_again() -> bool:
        await redis.publish("stop:a", "text")
        return bool(heard)

    await until(hears_again)


async def test_signal_reaches_other_processes_not_other_applications(
    real_cache: CacheService, real_cache_backend: CacheBackend, app_id: str
) -> None:
    heard: list[str] = []
    async with (
        running_cache(real_cache_backend.settings, app_id) as process,
        running_cache(real_cache_backend.settings, f"{app_id}-other") as stranger,
    ):
        for service in (process, stranger):
            await service.subscribe(
                "stop:*", lambda channel, text, service=service: heard.append((service, text))
            )
        await stranger.get_client().publish("stop:a", "of the stranger")
        await real_cache.get_client().publish("stop:a", "ours")
        await until(lambda: len(heard) == 2)
        assert sorted(heard, key=lambda entry: entry[1]) == [
            (stranger, "of the stranger"),
            (process, "ours"),
        ]


async def test_a_failing_handler_stops_no_other(cache: CacheService) -> None:
    heard: list[str] = []
    await cache.subscribe("stop:*", lambda channel, text: 1 / 0)
    await cache.subscribe("stop:*", lambda channel, text: heard.append(text))
    for text in ("1", "2"):
        await cache.get_client().publish("stop:a", text)
    await until(lambda: heard == ["1", "2"])


async def test_after_a_restart_of_the_server_signals_are_heard_again(
    private_server: RedisServer, app_id: str
) -> None:
    heard: list[str] = []
    begun: list[bool] = []
    async with running_cache(private_server.settings(), app_id) as service:
        await service.subscribe(
            "stop:*", lambda channel, text: heard.append(text), lambda: begun.append(True)
        )
        assert len(begun) == 1
        private_server.kill()
        assert await service.subscribe("late:*", lambda channel, text: heard.append(text)) is False
        await asyncio.to_thread(private_server.start)

        async def both_arrive() -> bool:
            await service.get_client().publish("stop:a", "stop")
            await service.get_client().publish("late:a", "late")
            return {"stop", "late"} <= set(heard)

        await until(both_arrive)
        assert len(begun) == 2, "every subscriber that may have missed one is notified"


async def test_user_without_channel_rights_is_logged_once_and_retried(
    redis_server: RedisServer, app_id: str
) -> None:
    settings = redis_server.settings(timeout_s=2)
    heard: list[str] = []
    async with running_cache(settings, app_id) as owner:
        await owner.get_client().execute(
            "ACL", "SETUSER", app_id, "on", ">of the test", "~*", "+@all", "resetchannels"
        )
        user = settings.model_copy(
            update={"username": app_id, "password": SecretStr("of the test")}
        )
        async with running_cache(user, app_id) as service:
            with structlog.testing.capture_logs() as logs:
                assert not await service.subscribe(
                    "stop:*", lambda channel, text: heard.append(text)
                )
                await until(lambda: service._pubsub._pause_s == 2.0)
            (told,) = logs
            assert told["event"] == "cache signals interrupted"
            assert "channel" in told["reason"]
            with pytest.raises(CacheCommandError, match="NOPERM"):
                await service.get_client().publish("stop:a", "refused")
            rights = f"&{service.channels('stop:*')}"
            await owner.get_client().execute("ACL", "SETUSER", app_id, rights)

            async def arrives() -> bool:
                await service.get_client().publish("stop:a", "allowed")
                return "allowed" in heard

            await until(arrives)
            assert service._pubsub._pause_s == 0.2, (
                "the next interruption is fixed at once, and told"
            )
        await owner.get_client().execute("ACL", "DELUSER", app_id)


async def test_a_connection_that_gives_no_sign_of_life_is_replaced(
    real_cache: CacheService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base_server.service.redis_client.pubsub_client._QUIET_S", 0.2)
    heard: list[str] = []
    await real_cache.subscribe("stop:*", lambda channel, text: heard.append(text))
    pubsub = real_cache._pubsub
    assert pubsub is not None
    first, pings = pubsub._connection, 0
    assert first is not None
    write = first.write

    def counted(*command: object) -> None:
        nonlocal pings
        pings += 1
        write(*command)

    monkeypatch.setattr(first, "write", counted)
    await until(lambda: pings == 2, what="one that answered is asked again")
    monkeypatch.setattr(first, "write", lambda *command: None)
    await until(lambda: pubsub._connection not in (None, first))

    async def arrives() -> bool:
        await real_cache.get_client().publish("stop:a", "again")
        return "again" in heard

    await until(arrives)


async def test_a_stopped_service_listens_no_more(cache_backend: CacheBackend, app_id: str) -> None:
    service = make_cache(cache_backend.settings, app_id)
    await service.start()
    await service.subscribe("stop:*", lambda channel, text: None)
    await service.stop()
    assert not len(service._waits)
    with pytest.raises(ServiceNotRunning):
        await service.subscribe("stop:*", lambda channel, text: None)
