"""The server without HTTP: the shipped endpoint tables on a running chat, called with bodies and
tokens.

A :class:`EndpointDriver` also takes a picture of everything that Redis and the databases hold, so
that a test can say "nothing changed".
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from application.base_web_server.templates import create_account_template, create_session_store
from base_server.service.cache.cache_settings import CacheSettings
from base_server.template.account.settings import AccountSettings
from base_server.template.base.endpoint import Endpoint
from base_server.template.base.session_info import SessionInfo
from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_service import Call, HttpResponse, TemplateService
from base_server.template.base.template_type import TemplateType
from tests.backends_mariadb import DatabaseBackend
from tests.chat_harness import ChatHarness, running_harness
from tests.openai_stub import OpenAIStub

PASSWORD = "correct horse"
# What a picture leaves out: who holds which job at the moment, and the leases that a running reply
# renews.
_PASSING = ("lock:", "turn_leases", "login_attempts", "signups_from")


@dataclass
class Account:
    """An account with a token. ``partition`` and ``shard_id`` say where its things lie."""

    account_id: str
    db_key: int
    shard_id: int
    partition: int
    token: str


class Collected:
    """An SSE response that collects its events; consecutive pieces of text become one."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    async def open(self, on_left: Callable[[], None]) -> None:
        """Nothing to open."""

    async def send(self, event: bytes) -> None:
        fields = dict(line.split(": ", 1) for line in event.decode().strip().split("\n"))
        data = json.loads(fields["data"])
        if self.events and "text" in data and "text" in self.events[-1]["data"]:
            data["text"] = self.events.pop()["data"]["text"] + data["text"]
        self.events.append(fields | {"data": data})


class EndpointDriver:
    """``endpoints`` are those that a server registers by itself."""

    def __init__(self, harness: ChatHarness) -> None:
        self.harness = harness
        self.sessions = create_session_store(harness.container, AccountSettings())
        self.accounts = create_account_template(
            harness.container,
            AccountSettings(login_attempts_per_account=1000, login_attempts_per_address=1000),
            self.sessions,
        )
        self.context = TemplateContext()
        self.context.add_template(TemplateType.ACCOUNT, self.accounts)
        self.context.add_template(TemplateType.CHAT, harness.template)
        self._service = TemplateService(self.sessions)
        self._hash = ""

    @property
    def endpoints(self) -> list[Endpoint]:
        return self.context.endpoints()

    async def call(
        self, endpoint: Endpoint, body: dict[str, Any], token: str | None = None
    ) -> HttpResponse:
        """The answer as the server would send it; the body of a stream is the list of its
        events."""
        collected = Collected()
        answer = await self._service.handle(
            endpoint, Call(json.dumps(body).encode(), bearer=token), collected
        )
        if answer.is_streamed:
            answer = replace(
                answer, body=json.dumps(collected.events, separators=(",", ":")).encode()
            )
        return answer

    async def account(self, partition: int | None = None, shard_id: int | None = None) -> Account:
        """A new account, in a given partition (and on a given shard) if the test says so."""
        partitions = self.harness.container.cache.partitions
        while True:
            account_id = f"user{uuid.uuid4().hex[:12]}"
            if partition is not None and partitions.of_text(account_id) != partition:
                continue
            row = await self._insert(account_id)
            if shard_id is None or row["shard_id"] == shard_id:
                session = SessionInfo(account_id, int(row["account_db_key"]), int(row["shard_id"]))
                token = await self.sessions.create(session)
                return Account(
                    account_id,
                    session.account_db_key,
                    session.shard_id,
                    partitions.of_text(account_id),
                    token,
                )

    async def _insert(self, account_id: str) -> dict[str, Any]:
        """The account's row, without the time that a signup takes."""
        self._hash = self._hash or await self.accounts._vault.hash(PASSWORD)
        call = self.harness.container.database.call_global_procedure
        return (await call("fp_account_create", (account_id, self._hash, account_id, "", "")))[0]

    async def ok(self, account: Account, path: str, /, **fields: Any) -> dict[str, Any]:
        """The envelope of a success."""
        endpoint = self.context.find_by_path(path)
        assert endpoint is not None, path
        envelope: dict[str, Any] = json.loads(
            (await self.call(endpoint, fields, account.token)).body
        )
        assert envelope["errorCode"] == 0, envelope
        return envelope

    async def redis_picture(self) -> dict[str, Any]:
        """Key → value of everything that this harness has in Redis, without what passes by
        itself."""
        redis = self.harness.redis
        prefix = redis.key("x:y", 0).split("{", maxsplit=1)[0]
        keys, cursor = [], "0"
        while True:
            cursor, found = await redis.execute(
                "SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", 1000
            )
            keys += [key for key in found if not any(word in key for word in _PASSING)]
            if str(cursor) == "0":
                break
        kinds = await redis.execute_many([("TYPE", key) for key in keys])
        there = [(key, kind) for key, kind in zip(keys, kinds, strict=True) if kind != "none"]
        values = await redis.execute_many(
            [(_READ[kind], key, *_REST.get(kind, ())) for key, kind in there]
        )
        return {
            key.removeprefix(prefix): _plain(kind, value)
            for (key, kind), value in zip(there, values, strict=True)
        }

    async def rows(self, *accounts: Account) -> list[Any]:
        """All rows of these accounts: rooms (live ones and those that Redis names) with all their
        messages.
        """
        found: list[Any] = []
        for account in accounts:
            call = self.harness.container.database.call_shard_procedure
            rooms = await call(account.shard_id, "fp_chat_rooms_get", (account.db_key,))
            found.append(rooms)
            for room in rooms:
                found.append(
                    await call(account.shard_id, "fp_chat_window_get", (room["room_id"], 1000))
                )
        return found

    async def forget(self, *ids: str) -> None:
        """Expire every key of these ids (rooms, messages, accounts), as if their TTLs had ended."""
        picture = await self.redis_picture()
        prefix = self.harness.redis.key("x:y", 0).split("{", maxsplit=1)[0]
        if keys := [
            prefix + key for key in picture if any(identifier in key for identifier in ids)
        ]:
            await self.harness.redis.execute_many([("DEL", key) for key in keys])


_READ = {
    "string": "GET",
    "hash": "HGETALL",
    "list": "LRANGE",
    "set": "SMEMBERS",
    "zset": "ZRANGE",
    "stream": "XRANGE",
}
_REST = {"list": (0, -1), "zset": (0, -1, "WITHSCORES"), "stream": ("-", "+")}


def _plain(kind: str, value: Any) -> Any:
    if kind == "hash":
        return dict(zip(value[::2], value[1::2], strict=True))
    return sorted(value) if kind == "set" else value


@asynccontextmanager
async def running_driver(
    cache: CacheSettings, database: DatabaseBackend, app_id: str, provider: OpenAIStub, **chat: Any
) -> AsyncIterator[EndpointDriver]:
    async with running_harness(cache, database, app_id, provider, **chat) as harness:
        driver = EndpointDriver(harness)
        try:
            yield driver
        finally:
            await driver.accounts.stop()
