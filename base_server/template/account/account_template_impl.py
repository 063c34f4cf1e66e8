"""Signup, login, logout."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from base_server.service.core.instruments import Counter
from base_server.service.core.logger import Logger
from base_server.service.scheduler.base_scheduler import ScheduleJob, ScheduleType
from base_server.service.scheduler.scheduler_service import SchedulerService
from base_server.template.account.account_store import AccountStore
from base_server.template.account.attempt_limits import LoginLimit, SignupLimit
from base_server.template.account.common.account_examples import (
    LOGIN_EXAMPLE,
    LOGOUT_EXAMPLE,
    SIGNUP_EXAMPLE,
)
from base_server.template.account.common.account_serialize import (
    AccountView,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    SignupRequest,
    SignupResponse,
)
from base_server.template.account.global_mark import CHECK_INTERVAL_S, GlobalMark
from base_server.template.account.password_vault import PasswordVault
from base_server.template.account.session_store import SessionStore
from base_server.template.base.base_template import BaseTemplate
from base_server.template.base.client_session import ClientSession
from base_server.template.base.endpoint import Access, Endpoint
from base_server.template.base.error_response import error_to_response
from base_server.template.base.errors import AccountExists, ErrorCode, ServiceDown, WrongCredentials
from base_server.template.base.readiness import Health, ReadinessCheck
from base_server.template.base.session_info import SessionInfo

SIGNUPS = Counter("account_signups", "Accounts created.")
LOGINS = Counter(
    "account_logins", "Logins with the right password (ok) or without (refused).", ("outcome",)
)
_MOST_REPORTED = 10_000
LOGOUTS = Counter("account_logouts", "Sessions ended by their account.")


class AccountTemplateImpl(BaseTemplate):
    """Accounts of this server. Request validation has made account ids canonical."""

    def __init__(
        self,
        accounts: AccountStore,
        sessions: SessionStore,
        vault: PasswordVault,
        logins: LoginLimit,
        signups: SignupLimit,
        mark: GlobalMark,
        scheduler: SchedulerService,
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._vault = vault
        self._logins = logins
        self._signups = signups
        self._mark = mark
        self._scheduler = scheduler
        self._without_shard: set[int] = set()  # logged already
        self._mark_job = f"global_database_mark:{secrets.token_hex(4)}"

    def endpoints(self) -> Sequence[Endpoint]:
        return (
            Endpoint(
                1001, "/api/account/signup", SignupRequest, SignupResponse, self.on_signup_req,
                Access.ANONYMOUS, "Create an account", example=SIGNUP_EXAMPLE,
                errors=(ErrorCode.ACCOUNT_EXISTS, ErrorCode.TOO_MANY_REQUESTS),
            ),
            Endpoint(
                1002, "/api/account/login", LoginRequest, LoginResponse, self.on_login_req,
                Access.ANONYMOUS, "Get an access token", example=LOGIN_EXAMPLE,
                errors=(ErrorCode.WRONG_CREDENTIALS, ErrorCode.TOO_MANY_REQUESTS),
            ),
            Endpoint(
                1003, "/api/account/logout", LogoutRequest, LogoutResponse, self.on_logout_req,
                Access.USER, "End the session of the access token", example=LOGOUT_EXAMPLE,
                errors=(),
            ),
        )  # fmt: skip

    async def start(self) -> None:
        await self._mark.check()
        await self._scheduler.add_job(
            ScheduleJob(
                job_id=self._mark_job,
                name="mark of the global database",
                schedule_type=ScheduleType.INTERVAL,
                schedule_value=CHECK_INTERVAL_S,
                callback=self._mark.watch,
            )
        )

    async def readiness(self) -> Sequence[ReadinessCheck]:
        """An alarm for a day after the global database came back older."""
        alarm = self._mark.alarm
        return [
            ReadinessCheck("mark:global", Health.DEGRADED if alarm else Health.OK, str(alarm or ""))
        ]

    async def stop(self) -> None:
        await self._scheduler.remove_job(self._mark_job)
        await asyncio.to_thread(self._vault.close)

    @error_to_response(SignupResponse)
    async def on_signup_req(
        self, client_session: ClientSession, request: SignupRequest
    ) -> SignupResponse:
        """Create the account. After a 5003 it may exist: signup is then 2001, and login works."""
        await self._signups.check(client_session.peer)
        created = await self._accounts.create(
            request.account_id,
            await self._vault.hash(request.password),
            request.nickname or request.account_id,
            request.email or "",
            request.platform_type or "",
        )
        if not created:
            raise AccountExists()
        SIGNUPS.add()
        return SignupResponse(account_id=request.account_id)

    @error_to_response(LoginResponse)
    async def on_login_req(
        self, client_session: ClientSession, request: LoginRequest
    ) -> LoginResponse:
        """Return a new token.

        An unknown account and a wrong password have the same response and take the same time.
        """
        await self._logins.check(request.account_id, client_session.peer)
        account = await self._accounts.find(request.account_id)
        if (
            not await self._vault.verify(
                account.password_hash if account else None, request.password
            )
            or not account
        ):
            LOGINS.add("refused")
            raise WrongCredentials()
        await self._logins.forgive(request.account_id, client_session.peer)
        if account.shard_id is None:
            self._report_missing_shard(account.account_db_key)
            raise ServiceDown("the shard of this account is not known")
        self._without_shard.discard(account.account_db_key)
        session = SessionInfo(
            account.account_id, account.account_db_key, account.shard_id, account.nickname
        )
        token = await self._sessions.create(session, account.generation)
        LOGINS.add("ok")
        view = AccountView(
            account_id=account.account_id,
            nickname=account.nickname,
            created_at=account.created_at.isoformat(),
        )
        return LoginResponse(accessToken=token, account=view)

    def _report_missing_shard(self, account_db_key: int) -> None:
        """Log it once per account: its app may try to log in every few seconds."""
        if account_db_key in self._without_shard:
            return
        if len(self._without_shard) >= _MOST_REPORTED:
            self._without_shard.clear()
        self._without_shard.add(account_db_key)
        # Guessing a shard would hide the account's rooms: only an operator can restore the mapping.
        Logger.error(
            "account without a shard: its row of account_shards is lost", account=account_db_key
        )

    @error_to_response(LogoutResponse)
    async def on_logout_req(
        self, client_session: ClientSession, request: LogoutRequest
    ) -> LogoutResponse:
        """End the session permanently; its requests in all processes end with 10000 within a
        second.
        """
        await self._sessions.delete(client_session.session.session_key)
        LOGOUTS.add()
        return LogoutResponse()
