"""The chat on a Redis Cluster whose slots move and whose masters change while players write."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from base_server.service.db.db_settings import DatabaseSettings
from base_server.service.redis_client.slots import tag_slot
from base_server.template.base.client_session import ClientSession
from tests.backends_cluster import RedisCluster
from tests.backends_mariadb import DatabaseBackend
from tests.chat_harness import ChatHarness, running_harness
from tests.openai_stub import OpenAIStub
from tests.waiting import PATIENCE_S, until


class Player:
    """Writes into one room, repeats a send until it is acknowledged, deletes every third
    message."""

    def __init__(self, chat: ChatHarness, user: ClientSession, room_id: str) -> None:
        self.chat = chat
        self.user = user
        self.room_id = room_id
        self.said: list[str] = []
        self.deleted: set[str] = set()

    async def turn(self) -> None:
        text, client_id = f"{self.user.session.account_id} {len(self.said)}", str(uuid.uuid4())
        async with asyncio.timeout(PATIENCE_S):
            while (
                response := await self.chat.try_send(
                    self.user, self.room_id, text, client_message_id=client_id
                )
            ).errorCode:
                assert response.errorCode == 5003, response.error
            assert response.user_message is not None
            self.said.append(text)
            if len(self.said) % 3 == 0:
                message_id = response.user_message.message_id
                while code := await self.chat.delete_message(self.user, self.room_id, message_id):
                    assert code == 5003
                self.deleted.add(text)

    async def check(self) -> None:
        """In the list and in the rows: what was acknowledged, once, in order, without what was
        deleted."""
        expected = [text for text in self.said if text not in self.deleted]
        assert await self.chat.questions(self.user, self.room_id) == expected
        rows = await self.chat.rows(self.user, "fp_chat_window_get", self.room_id, 1000)
        assert [row["seq"] for row in rows] == list(range(1, 2 * len(self.said) + 1))
        kept = {
            row["content"] for row in rows if row["sender_type"] == "USER" and not row["deleted"]
        }
        assert kept == set(expected)


async def test_moving_slots_and_changing_masters_lose_nothing(
    private_cluster: RedisCluster, tmp_path: Path, app_id: str, provider: OpenAIStub
) -> None:
    """Nothing is lost doubled or revived while slots move and masters change."""
    database = DatabaseBackend("sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path, None)
    async with running_harness(
        private_cluster.settings(), database, app_id, provider, batch_interval_s=0.1
    ) as chat:
        players = []
        for _ in range(6):
            user = await chat.user()
            players.append(Player(chat, user, (await chat.room(user)).room_id))

        async def all_play(turns: int = 1) -> None:
            await asyncio.gather(*(play(player, turns) for player in players))

        async def play(player: Player, turns: int) -> None:
            for _ in range(turns):
                await player.turn()

        await all_play()
        partition = chat.redis.partitions.of_text(players[0].user.session.account_id)
        tag = chat.redis.partitions.tag(partition)
        source = private_cluster.owner(tag)
        target = next(node for node in private_cluster.masters if node is not source)
        playing = asyncio.create_task(all_play(4))
        await asyncio.to_thread(private_cluster.move_slot, tag_slot(tag), source, target)
        replica = private_cluster.replicas[private_cluster.masters.index(target)]
        replica.client.execute_command("CLUSTER", "FAILOVER")
        await until(lambda: replica.client.info("replication")["role"] == "master")
        await playing

        # A master that dies when its replica has everything: all that was acknowledged is there.
        await until(lambda: replica.client.wait(1, 1000) == 1)
        replica.kill()
        await all_play(2)
        await chat.persist()
        for player in players:
            await player.check()
        assert all(is_of_this_run for _, is_of_this_run in await chat.container.cache.generations())
        assert (await chat.container.cache.generations())[partition][0] >= 3, (
            "moved and failed over, then died"
        )


async def test_lost_master_stops_no_other_partitions_writes_or_ends(
    private_cluster: RedisCluster, tmp_path: Path, app_id: str, provider: OpenAIStub
) -> None:
    """A master that is away stops neither writes nor ends of the other partitions."""
    cluster = private_cluster
    for node in cluster.nodes:
        node.client.config_set("cluster-require-full-coverage", "no")
    database = DatabaseBackend("sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path, None)
    often = {"batch_interval_s": 0.1, "sweep_interval_s": 0.1, "reply_lease_s": 3}
    # Each call of a partition that is away takes this long.
    settings = cluster.settings(timeout_s=1, bulk_timeout_s=1)
    async with running_harness(settings, database, app_id, provider, **often) as chat:
        user = await chat.user()
        room_id = (await chat.room(user)).room_id
        living = cluster.owner(
            chat.redis.partitions.tag(chat.redis.partitions.of_text(user.session.account_id))
        )
        lost = cluster.masters.index(next(node for node in cluster.masters if node is not living))
        cluster.replicas[lost].kill()
        cluster.masters[lost].kill()

        await chat.accepted(user, room_id, "of a process that is gone")
        async with asyncio.timeout(PATIENCE_S):
            await chat.send(user, room_id, "behind it")

        async def all_written() -> bool:
            rows = await chat.rows(user, "fp_chat_window_get", room_id, 10)
            return [row["seq"] for row in rows] == [1, 2, 3, 4]

        await until(all_written)
