"""A global database that comes back older: what it forgot is lost, and stays its owner's."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import Deployment
from tests.server_process import Client, run_to_its_end
from tests.waiting import until

SECRET = "victims secret words"


def new_name(what: str) -> str:
    return f"{what}{uuid.uuid4().hex[:8]}"


@contextmanager
def standing_still(deployment: Deployment) -> Iterator[None]:
    """SIGSTOP to the server, SIGCONT at the end."""
    deployment.server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        deployment.server.signal(signal.SIGCONT)


class Players:
    """Players at one server."""

    def __init__(self, deployment: Deployment, http: aiohttp.ClientSession) -> None:
        self.deployment = deployment
        self.http = http

    async def player(self, name: str, password: str = "correct horse") -> Client:
        client = Client(self.http, self.deployment.server.base_url)
        await client.sign_in(name, password)
        return client

    async def with_secret(self, name: str) -> tuple[Client, str]:
        """A player whose room has the secret; the room's id."""
        client = await self.player(name)
        room = (await client.ok("/api/chat/room/create", ai_persona="DEMO", title=SECRET))["room"]
        await client.ok("/api/chat/message/send", room_id=room["room_id"], content=SECRET)
        return client, room["room_id"]

    async def written(self, room_id: str) -> None:
        """Question and reply are rows."""
        query = f"SELECT seq FROM chat_messages WHERE room_id = '{room_id}'"

        def rows() -> int:
            return sum(len(self.deployment.shard_rows(shard_id, query)) for shard_id in (1, 2))

        await until(lambda: rows() == 2, 20, "the secret in its shard")


async def sees_nothing(client: Client, room_id: str) -> None:
    """Whatever is asked: not the room, not its text, no way to change it; and a room of one's own
    works."""
    listed = await client.ok("/api/chat/rooms")
    assert (listed["rooms"], listed["total_count"]) == ([], 0)
    calls: dict[str, dict[str, Any]] = {
        "messages": {}, "message/send": {"content": "hello"}, "room/update": {"new_title": "mine"}, "room/delete": {},
    }  # fmt: skip
    for path, fields in calls.items():
        body = await client.post(f"/api/chat/{path}", room_id=room_id, **fields)
        assert body["errorCode"] == 1004, (path, body)
    own = (await client.ok("/api/chat/room/create", ai_persona="DEMO", title="own"))["room"][
        "room_id"
    ]
    sent = await client.ok("/api/chat/message/send", room_id=own, content="remember?")
    assert SECRET not in str(sent)
    assert [room["room_id"] for room in (await client.ok("/api/chat/rooms"))["rooms"]] == [own]


async def ends(client: Client) -> None:
    await until(
        lambda: _is_over(client), 30, "the session of an account that is not known any more ends"
    )


async def _is_over(client: Client) -> bool:
    code: int = (await client.post("/api/chat/rooms"))["errorCode"]
    assert code in (0, 10000)
    return code == 10000


@pytest.mark.parametrize("deployment", ["LOCAL", "DEBUG"], indirect=True)
@pytest.mark.parametrize("redis_is", ["warm", "empty"])
async def test_older_global_database_gives_nobody_anothers_rooms(
    deployment: Deployment, redis_is: str
) -> None:
    """cases/faults.md U11: an account that the database forgot is nobody's, and its session ends;
    others go on."""
    deployment.server.start()
    async with aiohttp.ClientSession() as http:
        players = Players(deployment, http)
        kept, _ = await players.with_secret(new_name("kept"))
        await players.player(new_name("second"))
        deployment.dump_global()
        name = new_name("victim")
        victim, room_id = await players.with_secret(name)
        if redis_is == "empty":
            await players.written(room_id)
        with standing_still(deployment):
            deployment.restore_global()
            if redis_is == "empty":
                deployment.ask_cache("FLUSHALL")
        stranger = await players.player(new_name("stranger"))
        await sees_nothing(stranger, room_id)
        await ends(victim)
        if redis_is == "warm":
            assert len((await kept.ok("/api/chat/rooms"))["rooms"]) == 1, (
                "a session that was not lost goes on"
            )
        # The name is free again, and its next owner is another.
        namesake = await players.player(name, "another password")
        await sees_nothing(namesake, room_id)
        assert (await victim.post("/api/chat/rooms"))["errorCode"] == 10000
        keys = [
            row["account_db_key"]
            for row in deployment.global_rows("SELECT account_db_key FROM accounts")
        ]
        owners = {
            row["account_db_key"]
            for shard_id in (1, 2)
            for row in deployment.shard_rows(
                shard_id, f"SELECT account_db_key FROM chat_messages WHERE room_id = '{room_id}'"
            )
        }
        assert owners.isdisjoint(keys)
        assert all(2**52 <= key < 2**53 for key in keys)


@pytest.mark.parametrize("deployment", ["LOCAL", "DEBUG"], indirect=True)
async def test_older_global_database_at_start_leaks_nothing(deployment: Deployment) -> None:
    """cases/faults.md U11: nothing of Redis or of a process remembers what the database was."""
    deployment.server.start()
    async with aiohttp.ClientSession() as http:
        players = Players(deployment, http)
        await players.player(new_name("first"))
        deployment.dump_global()
        name = new_name("victim")
        victim, room_id = await players.with_secret(name)
        await players.written(room_id)
        deployment.server.stop()
        deployment.restore_global()
        if deployment.env == "LOCAL":
            for file in (deployment.data_dir / "valkey" / "appendonlydir").iterdir():
                file.unlink()
        else:
            deployment.ask_cache("FLUSHALL")
        deployment.server.start()
        for stranger in (
            await players.player(new_name("stranger")),
            await players.player(name, "another password"),
        ):
            await sees_nothing(stranger, room_id)
        victim.base_url = deployment.server.base_url
        assert (await victim.post("/api/chat/rooms"))["errorCode"] == 10000


@pytest.mark.parametrize("deployment", ["LOCAL", "DEBUG"], indirect=True)
async def test_older_global_database_alarms_the_operator(deployment: Deployment) -> None:
    """cases/faults.md U11: log, metric, readiness and doctor say it, also when nothing but a logout
    was lost."""
    deployment.server.start()
    async with aiohttp.ClientSession() as http:
        players = Players(deployment, http)
        player = await players.player(new_name("player"))
        deployment.dump_global()
        await player.ok("/api/account/logout")

        async def ready() -> dict[str, Any]:
            async with http.get(f"{deployment.server.base_url}/readyz?verbose=1") as answer:
                assert answer.status == 200
                body: dict[str, Any] = await answer.json()
                return {check["name"]: check for check in body["checks"]}

        assert (await ready())["mark:global"]["health"] == "ok"
        with standing_still(deployment):
            deployment.restore_global()

        async def is_told() -> bool:
            return (await ready())["mark:global"]["health"] == "degraded"

        await until(is_told, 30)
        assert (
            "at least 1 acknowledged signups and logouts are lost"
            in (await ready())["mark:global"]["reason"]
        )
        assert deployment.server.log.count("the global database came back older") == 1
        async with http.get(f"{deployment.server.base_url}/metrics") as answer:
            metrics = await answer.text()
            assert 'base_server_db_came_back_older_total{database="global"} 1.0' in metrics
            assert 'base_server_degraded{check="mark:global"} 1.0' in metrics
        arguments = ["application.manage", "--env", deployment.env, "doctor"]
        doctor = run_to_its_end(arguments, deployment.server.environment)
        assert doctor.returncode == 1
        assert "BAD  mark:global: it came back older" in doctor.stdout
        assert (await player.post("/api/chat/rooms"))["errorCode"] == 10000
        # What the alert asks for is kept in Redis, and outlives every server.
        deployment.server.stop()
        deployment.server.start()
        await until(is_told, 30)
        async with http.get(f"{deployment.server.base_url}/metrics") as answer:
            metrics = await answer.text()
        assert 'base_server_degraded{check="mark:global"} 1.0' in metrics
        assert 'base_server_db_came_back_older_total{database="global"} 1.0' not in metrics


@pytest.mark.parametrize("deployment", ["LOCAL", "DEBUG"], indirect=True)
async def test_account_without_mapping_goes_to_no_other_shard(deployment: Deployment) -> None:
    """cases/faults.md U11: a lost mapping is an outage of the account, until it is back; no signup
    invents one."""
    deployment.server.start()
    async with aiohttp.ClientSession() as http:
        players = Players(deployment, http)
        name = new_name("player")
        player, room_id = await players.with_secret(name)
        (account,) = deployment.global_rows(
            f"SELECT account_db_key FROM accounts WHERE account_id = '{name}'"
        )
        key = account["account_db_key"]
        mapping = f"SELECT shard_id FROM account_shards WHERE account_db_key = {key}"
        (row,) = deployment.global_rows(mapping)
        deployment.change_global(f"DELETE FROM account_shards WHERE account_db_key = {key}")

        secret = {"account_id": name, "password": "correct horse"}
        for _ in range(2):
            assert (await player.post("/api/account/login", **secret))["errorCode"] == 5003
        assert (await player.post("/api/account/login", account_id=name, password="another horse"))[
            "errorCode"
        ] == 2002
        assert (await player.post("/api/account/signup", **secret))["errorCode"] == 2001
        assert deployment.global_rows(mapping) == []
        assert deployment.server.log.count("account without a shard") == 1
        page = await player.ok("/api/chat/messages", room_id=room_id)
        assert page["messages"][0]["content"] == SECRET, "a session knows its shard"

        deployment.change_global(f"INSERT INTO account_shards VALUES ({key}, {row['shard_id']})")
        again = await players.player(name)
        assert [room["room_id"] for room in (await again.ok("/api/chat/rooms"))["rooms"]] == [
            room_id
        ]
