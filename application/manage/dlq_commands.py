"""``dlq list|show|replay|drop``: the dead letters, of all queues or those that the options choose.

A letter's name is ``queue/partition/stream/id``, as ``dlq list`` prints it. ``list`` prints no
content: what a reason quotes of the data is left out; ``show`` prints the whole entry.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from base_server.service.core.errors import ServiceError
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.stream_store import DeadLetter
from base_server.template.chat.domain.events import QUEUE_NAME

from ..base_web_server.config.loading import ServerSettings
from .operating import Operating, operating

_Work = Callable[[Operating, argparse.Namespace, list[DeadLetter]], Awaitable[int]]


def add_to(groups: Any) -> None:
    """Add the command group ``dlq`` to argparse's ``groups``."""
    commands = groups.add_parser("dlq", help="dead letters").add_subparsers(
        required=True, metavar="COMMAND"
    )
    listing = commands.add_parser(
        "list", help="one line per letter: name, type, room, size, time, reason; no content"
    )
    show = commands.add_parser("show", help="the whole entry as JSON, with its content")
    replay = commands.add_parser(
        "replay", help="put letters back into their queue, a room's in order"
    )
    drop = commands.add_parser(
        "drop", help="delete letters permanently; only prints what it would do without --yes"
    )
    for parser, work in ((listing, _list), (show, _show), (replay, _replay), (drop, _drop)):
        choice = parser if parser is listing else parser.add_mutually_exclusive_group(required=True)
        choice.add_argument(
            "--id", metavar="NAME", help="this letter (replay: its room's letters up to this one)"
        )
        choice.add_argument("--room", metavar="ROOM_ID", help="the letters of a room")
        choice.add_argument("--queue", metavar="QUEUE", help="the letters of a queue")
        choice.add_argument("--all", action="store_true", help="all letters")
        parser.set_defaults(run=_command(work))
    drop.add_argument("--yes", action="store_true", help="really do it")


def _command(work: _Work) -> Callable[[ServerSettings, argparse.Namespace], int]:
    async def run(settings: ServerSettings, options: argparse.Namespace) -> int:
        async with operating(settings) as tools:
            letters = []
            for queue_name in await tools.queue.discover():
                limit = settings.queueConfig.dead_letter_limit
                letters += await tools.queue.dead_letters(queue_name, limit)
            chosen = [letter for letter in letters if _is_chosen(letter, options)]
            if not chosen and (options.id or options.room):
                raise ServiceError(
                    f"there is no dead letter of {options.id or options.room}; see: dlq list"
                )
            return await work(tools, options, chosen)

    return lambda settings, options: asyncio.run(run(settings, options))


def _is_chosen(letter: DeadLetter, options: argparse.Namespace) -> bool:
    wanted = (
        (options.id, name_of(letter)),
        (options.room, letter.group),
        (options.queue, letter.stream.queue_name),
    )
    return all(value is None or value == found for value, found in wanted)


def name_of(letter: DeadLetter) -> str:
    """The letter's name for ``--id``."""
    stream = letter.stream
    return f"{stream.queue_name}/{stream.partition}/{stream.name}/{letter.dead_id}"


async def _list(_: Operating, __: argparse.Namespace, letters: list[DeadLetter]) -> int:
    for letter in letters:
        size = sum(len(text.encode()) for text in letter.fields.values())
        at = datetime.fromtimestamp(letter.failed_at_ms / 1000, UTC).isoformat(timespec="seconds")
        kind, room = letter.fields.get("type", "-"), letter.group or "-"
        reason = _without_data(letter.reason)
        sys.stdout.write(f"{name_of(letter)} {kind} room={room} {size} bytes {at} {reason}\n")
    sys.stdout.write(f"{len(letters)} dead letters.\n")
    return 0


def _without_data(reason: str) -> str:
    """One line, without values that a database quotes; names of columns, keys and ids stay."""
    return re.sub(r"'(?![\w.-]{1,64}')[^']*'", "'…'", " ".join(reason.split()))[:200]


async def _show(_: Operating, __: argparse.Namespace, letters: list[DeadLetter]) -> int:
    for letter in letters:
        entry = {
            "name": name_of(letter),
            "reason": letter.reason,
            "room": letter.group,
            "first_id": letter.entry_id,
            "failed_at_ms": letter.failed_at_ms,
            "fields": letter.fields,
        }
        sys.stdout.write(json.dumps(entry, indent=2, ensure_ascii=False) + "\n")
    return 0


async def _replay(tools: Operating, options: argparse.Namespace, letters: list[DeadLetter]) -> int:
    count = 0
    for (stream, room), of_room in _by_room(letters).items():
        if room and stream.queue_name == QUEUE_NAME:
            outcome = await tools.chat_letters.replay(
                stream, room, of_room[0].dead_id if options.id else ""
            )
            count += outcome.done
            if outcome.left:
                sys.stdout.write(
                    f"Room {room} still has {outcome.left} dead letters and stays blocked.\n"
                )
        else:
            for letter in of_room:
                count += await tools.queue.replay_dead_letter(stream, letter.dead_id)
    sys.stdout.write(
        f"Replayed {count} dead letters; those that are refused again come back here.\n"
    )
    return 0


async def _drop(tools: Operating, options: argparse.Namespace, letters: list[DeadLetter]) -> int:
    if not options.yes:
        sys.stdout.write(
            f"This would delete {len(letters)} dead letters permanently; add --yes to do it.\n"
        )
        return 1
    count = 0
    for (stream, room), of_room in _by_room(letters).items():
        if room and stream.queue_name == QUEUE_NAME:
            count += (await tools.chat_letters.drop(stream, room, of_room)).done
        else:
            for letter in of_room:
                count += await tools.queue.drop_dead_letter(stream, letter.dead_id)
    sys.stdout.write(f"Dropped {count} dead letters.\n")
    return 0


def _by_room(letters: Sequence[DeadLetter]) -> dict[tuple[EventStream, str], list[DeadLetter]]:
    groups: dict[tuple[EventStream, str], list[DeadLetter]] = {}
    for letter in letters:
        groups.setdefault((letter.stream, letter.group), []).append(letter)
    return groups
