"""Loads an account's list of rooms from MySQL into Redis, whole or not at all."""

from __future__ import annotations

from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.cache.load import (
    ENDS,
    Load,
    LoadContext,
    Loaded,
    LoadRunner,
    time_bound_ms,
)
from base_server.template.chat.cache.load_calls import (
    DropWrongTypes,
    FinishAccountLoad,
    LoadBegun,
    LoadUnit,
)
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.message_format import iso, iso_of_ms, ms_of, to_json
from base_server.template.chat.persistence.procedures import ShardProcedures


class AccountLoader:
    """For callers whose script answered NOT_LOADED."""

    def __init__(self, context: LoadContext, runner: LoadRunner) -> None:
        self._context = context
        self._keys = ChatKeys(context.cache)
        self._runner = runner

    async def load(self, caller: Caller) -> Loaded:
        """Raises as :meth:`LoadRunner.run`."""
        return await self._runner.run_once(_AccountLoad(self._context, self._keys, caller))

    async def drop_wrong_types(self, caller: Caller) -> None:
        """Let keys of the list that are of another type count as missing."""
        account = self._keys.account(caller.account_id, caller.partition)
        await DropWrongTypes(
            event_stream=self._context.streams.stream_key(caller.partition, caller.shard_id),
            room_or_account_record=account.record,
            lists=[account.rooms, account.order],
            list_types=["set", "zset"],
        ).run(self._context.cache)


class _AccountLoad(Load):
    def __init__(self, context: LoadContext, keys: ChatKeys, caller: Caller) -> None:
        self._context = context
        self._keys = keys.partition(caller.partition)
        self._account = account = self._keys.account(caller.account_id)
        unit = LoadUnit(
            "account", "", account.record, account.load_token, account.rooms, account.order
        )
        super().__init__(caller, unit)

    async def fill(self, begun: LoadBegun) -> Loaded | None:
        context, caller = self._context, self.caller
        keys, any_room = self._keys, self._keys.room("")
        shard = ShardProcedures(context.database, caller.shard_id)
        rows = await shard.rooms(caller.db_key)
        latest = await shard.latest_request_id(caller.db_key)
        values: list[object] = []
        for row in rows:
            values += [
                row["room_id"],
                ms_of(row["last_message_at"]),
                to_json(row["title"]),
                to_json(row["ai_persona"]),
                iso(row["created_at"]),
                row["message_count"],
                row["client_request_id"] or "",
                row["request_hash"] or "",
            ]
        done = await FinishAccountLoad(
            caller=caller,
            account=self._account,
            partition=keys,
            room_records=any_room.record,
            room_jsons=any_room.json,
            room_states=any_room.state,
            blocked_rooms=context.streams.blocked_rooms_key(caller.partition, caller.shard_id),
            account_name=keys.account_name(caller.db_key),
            token=begun.token,
            begun_in=begun.generation,
            ttl_ms=context.settings.room_list_ttl_s * 1000,
            latest_request_time=iso_of_ms(time_bound_ms(latest)) if latest else "",
            name_ttl_ms=context.settings.state_ttl_s * 1000,
            rows=values,
        ).run(context.cache)
        return ENDS.get(type(done))
