"""Signup, login, logout on running services: one form of an id, no tell-tale answers, tokens that
are not stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from application.base_web_server.templates import create_account_template, create_session_store
from base_server.service.cache.cache_service import CacheService
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.llm.llm_settings import LlmSettings
from base_server.service.service_container import ServiceContainer, ServiceSettings
from base_server.template.account import password_vault
from base_server.template.account.account_template_impl import AccountTemplateImpl
from base_server.template.account.common.account_serialize import (
    LoginRequest,
    LogoutRequest,
    SignupRequest,
)
from base_server.template.account.ended_sessions import EndedSessions
from base_server.template.account.password_vault import PasswordVault
from base_server.template.account.session_store import SessionStore
from base_server.template.account.settings import AccountSettings
from base_server.template.base.client_session import ClientSession
from base_server.template.base.errors import InvalidRequest, TooManyRequests
from base_server.template.base.request_body import read_request
from base_server.template.base.session_info import SessionInfo
from base_server.template.chat.cache.keys import ChatKeys
from tests.backends_redis import RedisServer, running_cache
from tests.waiting import until


class NeverEnded(EndedSessions):
    """No global database: nobody has logged out."""

    def __init__(self) -> None:
        pass

    async def contains(self, session_hash: str) -> bool:
        return False


ANYBODY = ClientSession(SessionInfo(""), "req", "192.0.2.1")
PASSWORD = "correct horse"


class ServerHarness:
    def __init__(self, container: ServiceContainer, **limits: int) -> None:
        self.container = container
        self.sessions = create_session_store(container, AccountSettings())
        self.template: AccountTemplateImpl = create_account_template(
            container, AccountSettings(**limits), self.sessions
        )

    async def signup(self, account_id: str, password: str = PASSWORD) -> int:
        request = SignupRequest(account_id=account_id, password=password)
        return (await self.template.on_signup_req(ANYBODY, request)).errorCode

    async def login(self, account_id: str, password: str = PASSWORD) -> tuple[int, str]:
        response = await self.template.on_login_req(
            ANYBODY, LoginRequest(account_id=account_id, password=password)
        )
        return response.errorCode, response.accessToken


@asynccontextmanager
async def running_harness(data_dir: Path, **limits: int) -> AsyncIterator[ServerHarness]:
    container = ServiceContainer(
        ServiceSettings(
            "app",
            "LOCAL",
            data_dir,
            llm=LlmSettings(demo_without_key=True),
        )
    )
    await container.start()
    harness = ServerHarness(container, **limits)
    try:
        yield harness
    finally:
        await harness.template.stop()
        await container.stop()


@pytest.fixture
def real_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(password_vault, "PasswordHasher", PasswordHasher)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[ServerHarness]:
    async with running_harness(tmp_path) as running:
        yield running


async def test_an_account_has_one_id_whatever_its_spelling(harness: ServerHarness) -> None:
    assert await harness.signup("Ａlice.1") == 0
    assert await harness.signup("ALICE.1") == 2001
    assert (await harness.login("aLiCe.1"))[0] == 0


async def test_login_gives_a_new_token_each_time_that_finds_the_account(
    harness: ServerHarness,
) -> None:
    await harness.signup("alice")
    (_, first), (_, second) = await harness.login("alice"), await harness.login("alice")
    assert first != second
    session = await harness.sessions.find(first)
    assert session is not None
    rows = await harness.container.database.call_global_procedure("fp_account_get", ("alice",))
    assert (session.account_id, session.account_db_key, session.shard_id) == (
        "alice", rows[0]["account_db_key"], rows[0]["shard_id"],
    )  # fmt: skip
    assert rows[0]["password_hash"].startswith("$argon2id$")


async def test_logout_ends_only_its_own_session(harness: ServerHarness) -> None:
    await harness.signup("alice")
    (_, first), (_, second) = await harness.login("alice"), await harness.login("alice")
    session = await harness.sessions.find(first)
    assert session is not None
    assert (
        await harness.template.on_logout_req(ClientSession(session), LogoutRequest())
    ).errorCode == 0
    assert await harness.sessions.find(first) is None
    assert await harness.sessions.find(second) is not None


async def test_unknown_account_and_wrong_password_are_answered_alike(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.signup("alice")
    verified: list[str] = []
    real = PasswordVault._verify

    def counted(self: PasswordVault, stored: str | None, password: str) -> bool:
        verified.append(password)
        return real(self, stored, password)

    monkeypatch.setattr(PasswordVault, "_verify", counted)
    answers = []
    for account_id in ("alice", "nobody"):
        request = LoginRequest(account_id=account_id, password="wrong password")
        answers.append((await harness.template.on_login_req(ANYBODY, request)).model_dump())
    assert answers[0] == answers[1]
    assert answers[0]["errorCode"] == 2002
    assert verified == ["wrong password"] * 2


async def test_password_of_the_missing_account_dummy_logs_nobody_in(
    harness: ServerHarness,
) -> None:
    """Nobody logs in with the password that stands in for a missing account."""
    assert (await harness.login("nobody", "no account has this password"))[0] == 2002


async def test_two_signups_at_once_make_one_account(harness: ServerHarness) -> None:
    assert (
        sorted(await asyncio.gather(*(harness.signup("alice", f"password {n}") for n in range(4))))
        == [0] + [2001] * 3
    )


async def test_accounts_spread_over_the_shards(harness: ServerHarness) -> None:
    for name in ("alice", "bob", "carol", "dave"):
        await harness.signup(name)
    shards = [
        (await harness.sessions.find((await harness.login(name))[1]))
        for name in ("alice", "bob", "carol", "dave")
    ]
    assert sorted(session.shard_id for session in shards if session) == [1, 1, 2, 2]


async def test_a_database_outage_is_5003(harness: ServerHarness) -> None:
    await harness.container.database.stop()

    async def down(*_: object) -> list[object]:
        raise ServiceUnavailable("database", "down")

    harness.container.database.call_global_procedure = down  # type: ignore[method-assign,assignment]
    assert await harness.signup("alice") == 5003
    assert (await harness.login("alice"))[0] == 5003


async def test_failed_logins_are_limited_and_successful_ones_are_not(tmp_path: Path) -> None:
    async with running_harness(
        tmp_path, login_attempts_per_account=3, login_attempts_per_address=5, login_window_s=3600
    ) as harness:
        await harness.signup("alice")
        for _ in range(5):
            assert (await harness.login("alice"))[0] == 0
        for _ in range(3):
            assert (await harness.login("alice", "wrong password"))[0] == 2002
        response = await harness.template.on_login_req(
            ANYBODY, LoginRequest(account_id="alice", password=PASSWORD)
        )
        assert (response.errorCode, response.accessToken) == (1010, "")
        assert response.error is not None
        assert response.error.retry_after_s is not None
        assert 0 < response.error.retry_after_s <= 3600
        # Each attempt counts for its address, and one that is over its limit uses up nobody's
        # attempts.
        assert [(await harness.login(name))[0] for name in ("other", *["bob"] * 4)] == [
            2002,
            *[1010] * 4,
        ]
        elsewhere = ClientSession(SessionInfo(""), "req", "2001:db8::1")
        for _ in range(3):
            asked = await harness.template.on_login_req(
                elsewhere, LoginRequest(account_id="bob", password=PASSWORD)
            )
            assert asked.errorCode == 2002


async def test_signups_of_an_address_are_limited_whatever_becomes_of_them(tmp_path: Path) -> None:
    async with running_harness(tmp_path, signups_per_address=3) as harness:
        assert [await harness.signup(name) for name in ("alice", "alice", "bob", "carol")] == [
            0,
            2001,
            0,
            1010,
        ]
        request = SignupRequest(account_id="carol", password=PASSWORD)
        refused = await harness.template.on_signup_req(ANYBODY, request)
        assert refused.error is not None
        assert refused.error.retry_after_s is not None
        assert 0 < refused.error.retry_after_s <= 3600
        elsewhere = ClientSession(SessionInfo(""), "req", "2001:db8::1")
        assert (await harness.template.on_signup_req(elsewhere, request)).errorCode == 0


@pytest.mark.parametrize(
    ("peers", "refused"),
    [
        (["2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:1::3"], True),
        (["2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:3::1"], False),
        (["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"], True),
        (["192.0.2.1", "192.0.2.2", "192.0.2.3"], False),
        (["a socket", "a socket", "a socket"], True),
    ],
)
async def test_who_has_a_network_of_addresses_counts_once(
    tmp_path: Path, peers: list[str], refused: bool
) -> None:
    async with running_harness(tmp_path, signups_per_address=2) as harness:
        for number, peer in enumerate(peers):
            request = SignupRequest(account_id=f"user{number}", password=PASSWORD)
            answer = await harness.template.on_signup_req(
                ClientSession(SessionInfo(""), "req", peer), request
            )
        assert answer.errorCode == (1010 if refused else 0)


@pytest.mark.usefixtures("real_hashes")
async def test_every_failed_login_takes_the_same_time(
    harness: ServerHarness,
) -> None:
    """By the processor's time, of which other work on the machine takes none; without the stand-in
    hash it is a hundredth.
    """
    await harness.signup("alice")
    await harness.container.database.call_global_procedure(
        "fp_account_create", ("broken", "no hash", "", "", "")
    )

    async def median_s(account_id: str) -> float:
        times = []
        for _ in range(3):
            started = time.process_time()
            assert (await harness.login(account_id, "wrong password"))[0] == 2002
            times.append(time.process_time() - started)
        return statistics.median(times)

    times = [await median_s(name) for name in ("alice", "nobody", "broken")]
    assert max(times) < 2.5 * min(times), times


@pytest.mark.usefixtures("real_hashes")
async def test_hashing_does_not_slow_the_rest(harness: ServerHarness) -> None:
    """12 logins at once; meanwhile a session is found, as every request of the chat begins."""
    await harness.signup("alice")
    token = (await harness.login("alice"))[1]
    logins = asyncio.gather(*(harness.login("alice") for _ in range(12)))
    found = 0
    while not logins.done():
        assert await harness.sessions.find(token) is not None
        found += 1
        await asyncio.sleep(0.002)
    assert {code for code, _ in await logins} <= {0, 1010}
    assert found > 30, "the event loop stood still"


@pytest.mark.usefixtures("real_hashes")
async def test_the_vault_refuses_more_than_it_has_room_for() -> None:
    vault = PasswordVault(threads=1, waiting=1)
    results = await asyncio.gather(*(vault.hash("x" * 8) for _ in range(3)), return_exceptions=True)
    assert [type(result).__name__ for result in results].count("TooManyRequests") == 1
    assert isinstance(results[2], TooManyRequests)
    stored = await vault.hash("password")
    assert await vault.verify(stored, "password")
    assert not await vault.verify(stored, "passworD")
    assert not await vault.verify("no hash", "password")
    vault.close()


@pytest.mark.usefixtures("real_hashes")
async def test_a_caller_that_leaves_keeps_its_capacity_until_its_hash_is_done() -> None:
    vault = PasswordVault(threads=1, waiting=0)
    gone = asyncio.create_task(vault.hash("x" * 8))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    with pytest.raises(TooManyRequests):
        await vault.hash("y" * 8)
    await until(lambda: vault._capacity == 1)
    assert await vault.hash("y" * 8)
    vault.close()


@pytest.mark.parametrize(
    "account_id", ["alice", "01a20937-1188-8008-acb1-b5ac80cf451d"], ids=["name", "like our ids"]
)
async def test_a_session_is_stored_under_a_hash_in_its_accounts_partition(
    real_cache: CacheService, account_id: str
) -> None:
    store = SessionStore(real_cache, NeverEnded(), 100)
    token = await store.create(SessionInfo(account_id, 7, 2, "Alice"))
    partition, secret = token.split(".")
    assert int(partition) == ChatKeys(real_cache.get_client()).account_partition(account_id)
    client = real_cache.get_client()
    key = client.key(
        f"session:{hashlib.sha256(token.encode()).hexdigest()}", partition=int(partition)
    )
    stored = await client.execute("GET", key)
    assert secret not in stored
    session = await store.find(token)
    assert session is not None
    assert (session.account_id, session.account_db_key, session.shard_id) == (account_id, 7, 2)
    assert session.nickname == "Alice"


async def test_finding_is_one_round_trip_and_gives_the_session_its_life_anew(
    real_cache: CacheService,
) -> None:
    store = SessionStore(real_cache, NeverEnded(), 100)
    token = await store.create(SessionInfo("alice", 7, 2))
    session = await store.find(token)
    assert session is not None
    client = real_cache.get_client()
    digest = session.session_key.partition(".")[2]
    key = client.key(f"session:{digest}", partition=int(token[:2]))
    await client.execute("EXPIRE", key, 5)
    before = client.round_trips
    assert await store.find(token) == session
    assert client.round_trips - before == 1
    assert await client.execute("TTL", key) > 90


BAD_TOKENS = [
    "",
    "x",
    "07",
    "07.",
    "99." + "a" * 43,
    "-1." + "a" * 43,
    "٠٧." + "a" * 43,
    "07." + "a" * 43 + "\n",
]


@pytest.mark.parametrize("token", BAD_TOKENS)
async def test_a_malformed_token_finds_nothing(cache: CacheService, token: str) -> None:
    assert await SessionStore(cache, NeverEnded(), 100).find(token) is None


OF_ANOTHER = (
    '{"key": "07.00", "account_id": "bob", "account_db_key": 8, "shard_id": 1, "nickname": ""}'
)


@pytest.mark.parametrize("stored", ["", "{", "null", "[]", "{}", OF_ANOTHER])
async def test_a_damaged_session_counts_as_none(real_cache: CacheService, stored: str) -> None:
    store = SessionStore(real_cache, NeverEnded(), 100)
    token = await store.create(SessionInfo("alice", 7, 2))
    session = await store.find(token)
    assert session is not None
    client = real_cache.get_client()
    key = client.key(f"session:{session.session_key.partition('.')[2]}", partition=int(token[:2]))
    await client.execute("SET", key, stored)
    assert await store.find(token) is None
    await client.execute("DEL", key)
    await client.execute("RPUSH", key, "a list")
    assert await store.find(token) is None


async def test_without_redis_a_session_is_not_missing_but_unknown(
    private_server: RedisServer, app_id: str
) -> None:
    async with running_cache(private_server.settings(), app_id) as cache:
        store = SessionStore(cache, NeverEnded(), 100)
        token = await store.create(SessionInfo("alice", 7, 2))
        private_server.kill()
        with pytest.raises(ServiceUnavailable):
            await store.find(token)


ACCEPTED = {
    "empty optionals": {"nickname": "", "email": "", "platform_type": ""},
    "a platform number": {"platform_type": 3},
    "korean nickname": {"nickname": "용사 👑", "email": "용사@예시.한국"},
    "a long password": {"password": "비" * 128},
}
REFUSED = {
    "short password": ("password", "1234567"),
    "long password": ("password", "a" * 129),
    "password that is a number": ("password", 12345678),
    "nickname of two lines": ("nickname", "a\nb"),
    "long nickname": ("nickname", "a" * 65),
    "no email": ("email", "alice"),
    "email with a line break": ("email", "a@b\n.c"),
    "platform that is true": ("platform_type", True),
    "short id": ("account_id", "ab"),
    "id with a space": ("account_id", "admin "),
}


@pytest.mark.parametrize("fields", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_signup_may_say(fields: dict[str, object]) -> None:
    body = {"account_id": "alice", "password": PASSWORD} | fields
    assert read_request(SignupRequest, json.dumps(body).encode()).account_id == "alice"


@pytest.mark.parametrize(("field", "value"), REFUSED.values(), ids=REFUSED.keys())
def test_a_signup_may_not_say(field: str, value: object) -> None:
    body = {"account_id": "alice", "password": PASSWORD, field: value}
    with pytest.raises(InvalidRequest) as refused:
        read_request(SignupRequest, json.dumps(body).encode())
    assert (refused.value.details or {})["field"] == field
