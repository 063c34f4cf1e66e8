"""Gives an account many rooms, or a room very many messages, past the server: straight into its
shard, in bulk.

``python -m benchmarks.seed --env DEBUG --account NAME --rooms 10000 --messages 1000000`` on the
databases of that configuration. The account must exist and not be in use: what Redis holds of its
rooms is believed for an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from application.base_web_server.config.loading import ENVIRONMENTS, load_settings
from base_server.service.cache.partition import Partitions
from base_server.service.core.errors import StartError
from base_server.service.db.database_service import DatabaseService
from base_server.service.db.db_settings import DatabaseSettings
from base_server.service.service_container import SCRIPTS_FOLDER
from base_server.template.chat.domain.message_format import to_json

ROWS = 1000
"""Rows of one call."""
_CALL_TIMEOUT_S = 120.0
"""No player waits for these calls, and a thousand rows may take a slow machine longer than one
should wait."""
_QUESTION = "What would you take along on a walk of three days through the mountains in autumn?"
_ANSWER = "Warm layers, a light rain jacket, two pairs of socks, a map, a lamp, and more water than you think you need."
_USER_METADATA = to_json({"ai_persona": "GPT4O"})
_AI_METADATA = to_json(
    {"ai_persona": "GPT4O", "model": "seed", "finish_reason": "stop", "latency_ms": 1}
)


@dataclass(frozen=True)
class Account:
    """Where the account's rows go."""

    account_db_key: int
    shard_id: int
    partition: int


async def find_account(
    database: DatabaseService, partitions: Partitions, account_id: str
) -> Account:
    """Raises StartError when there is no such account."""
    rows = await database.call_global_procedure("fp_account_get", (account_id,))
    if not rows:
        raise StartError(f"there is no account {account_id}: sign it up first")
    return Account(
        int(rows[0]["account_db_key"]), int(rows[0]["shard_id"]), partitions.of_id(account_id)
    )


async def seed(
    database: DatabaseService,
    partitions: Partitions,
    account: Account,
    *,
    rooms: int,
    messages: int,
    tell: Callable[[int], object] = lambda rows: None,
) -> str:
    """Make ``rooms`` rooms, and ``messages`` messages in the first of them; its id. ``tell`` hears
    how many rows were written, again and again. A message is a second older than the next; the last
    one is of now."""
    begin = datetime.now(UTC) - timedelta(seconds=messages)
    room_ids = [partitions.new_id(account.partition) for _ in range(rooms)]

    async def write(procedure: str, rows: list[Any]) -> None:
        await database.call_shard_procedure(account.shard_id, procedure, (to_json(rows),))
        tell(len(rows))

    for part in _parts(range(rooms)):
        created = [
            {
                "room_id": room_ids[n], "account_db_key": account.account_db_key, "title": f"Room {n + 1}",
                "ai_persona": "GPT4O", "created_at": _time(begin, -n), "client_request_id": None, "request_hash": None,
            }
            for n in part
        ]  # fmt: skip
        await write("fp_chat_room_batch_create", created)
    writing: asyncio.Task[None] | None = None
    question_id = ""
    for part in _parts(range(1, messages + 1)):
        rows = []
        for seq in part:
            message_id = partitions.new_id(account.partition)
            rows.append(_message(account, room_ids[0], seq, message_id, question_id, begin))
            question_id = message_id
        if writing is not None:
            await writing  # the next rows are made while the last ones are written
        writing = asyncio.create_task(write("fp_chat_message_batch_save", rows))
    if writing is not None:
        await writing
    return room_ids[0]


def _message(
    account: Account, room_id: str, seq: int, message_id: str, before_id: str, begin: datetime
) -> list[Any]:
    """In the order of MESSAGE_COLUMNS; each second one answers the one before."""
    is_user = seq % 2 == 1
    return [
        message_id, room_id, account.account_db_key, seq, "USER" if is_user else "AI",
        f"{_QUESTION} {seq}" if is_user else f"{_ANSWER} {seq}", None if is_user else before_id,
        _USER_METADATA if is_user else _AI_METADATA, _time(begin, seq), str(uuid.uuid4()) if is_user else None, None,
    ]  # fmt: skip


def _time(begin: datetime, seconds: int) -> str:
    return (begin + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%S.%f")[:23]


def _parts(numbers: range) -> Iterator[range]:
    for first in range(0, len(numbers), ROWS):
        yield numbers[first : first + ROWS]


async def run(
    settings: DatabaseSettings,
    data_dir: Path,
    partitions: int,
    account_id: str,
    *,
    rooms: int,
    messages: int,
) -> str:
    """:func:`seed` on the databases of ``settings``, with a progress bar; the room's id."""
    patient = settings.model_copy(update={"timeout_s": max(settings.timeout_s, _CALL_TIMEOUT_S)})
    database = DatabaseService(patient, data_dir, SCRIPTS_FOLDER)
    await database.start()
    try:
        known = Partitions(partitions)
        account = await find_account(database, known, account_id)
        with tqdm(
            total=rooms + messages,
            unit=" rows",
            desc=f"account {account_id}",
            file=sys.stderr,
            mininterval=1,
        ) as bar:
            return await seed(
                database, known, account, rooms=rooms, messages=messages, tell=bar.update
            )
    finally:
        await database.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seed", description=__doc__)
    parser.add_argument(
        "--env", choices=ENVIRONMENTS, default="LOCAL", help="which configuration (default: LOCAL)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="another configuration file")
    parser.add_argument(
        "--account", required=True, metavar="ID", help="an account that has signed up"
    )
    parser.add_argument("--rooms", type=int, default=1, help="rooms to make (1)")
    parser.add_argument("--messages", type=int, default=0, help="messages in the first of them (0)")
    options = parser.parse_args()
    try:
        settings = load_settings(options.env, options.config)
        room_id = asyncio.run(
            run(
                settings.databaseConfig,
                settings.templateConfig.data_dir.absolute(),
                settings.queueConfig.partitions,
                options.account,
                rooms=max(1, options.rooms),
                messages=options.messages,
            )
        )
    except StartError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{options.messages} messages are in room {room_id}")


if __name__ == "__main__":
    main()
