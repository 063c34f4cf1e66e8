"""The two loaders of a chat, for callers that need either."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from base_server.service.core.tasks import TaskRegistry
from base_server.template.chat.cache.account_loader import AccountLoader
from base_server.template.chat.cache.load import LoadContext, LoadRunner
from base_server.template.chat.cache.room_loader import RoomLoader
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.replies.slot import ReplySlot
from base_server.template.chat.rooms.directory import ChatDirectory


@dataclass(frozen=True)
class Loaders:
    """What a script answered NOT_LOADED for is read from MySQL by one of them."""

    rooms: RoomLoader
    accounts: AccountLoader

    @classmethod
    def of(
        cls,
        context: LoadContext,
        check_mark: Callable[[int, int], Awaitable[None]],
        interrupt: Callable[[ReplySlot], Awaitable[object]],
        directory: ChatDirectory,
        tasks: TaskRegistry,
    ) -> Loaders:
        """For ``check_mark`` see :class:`LoadRunner`, for ``interrupt`` :class:`RoomLoader`."""
        runner = LoadRunner(context, check_mark, tasks)
        return cls(
            RoomLoader(context, interrupt, directory, runner), AccountLoader(context, runner)
        )

    async def drop_wrong_types(self, caller: Caller, room_id: str) -> None:
        """Let keys of the room ('' for none) and of the account's list that are of another type
        count as missing."""
        await self.accounts.drop_wrong_types(caller)
        if room_id:
            await self.rooms.drop_wrong_types(caller, room_id)
