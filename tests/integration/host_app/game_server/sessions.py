"""The game's own sessions: its players log in elsewhere, here a token is only looked up."""

from __future__ import annotations

from base_server.template.base.session_info import SessionInfo

# token: account id, the number that names the account in the databases, its shard (0: look into the
# mapping table).
_PLAYERS = {
    "game-token-of-minsu": SessionInfo("minsu", account_db_key=1001, shard_id=1, nickname="민수"),
    "game-token-of-jiwoo": SessionInfo("jiwoo", account_db_key=1002, shard_id=2, nickname="지우"),
    "game-token-of-guest": SessionInfo("guest", account_db_key=1003),
}


class GameSessions:
    """Anything with this ``find`` is a session service (``template_service.SessionFinder``)."""

    async def find(self, token: str) -> SessionInfo | None:
        return _PLAYERS.get(token)
