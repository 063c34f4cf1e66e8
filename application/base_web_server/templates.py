"""The server's templates, made from services and configuration here only."""

from __future__ import annotations

from base_server.service.service_container import ServiceContainer
from base_server.template.account.account_store import AccountStore
from base_server.template.account.account_template_impl import AccountTemplateImpl
from base_server.template.account.attempt_limits import LoginLimit, SignupLimit
from base_server.template.account.ended_sessions import EndedSessions
from base_server.template.account.global_mark import GlobalMark
from base_server.template.account.password_vault import PasswordVault
from base_server.template.account.session_store import SessionStore
from base_server.template.account.settings import AccountSettings
from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_type import TemplateType
from base_server.template.chat.chat_template_impl import create_chat_template

from .config.loading import ServerSettings
from .host_app import register_host_templates


def create_session_store(container: ServiceContainer, settings: AccountSettings) -> SessionStore:
    """The sessions of this server's accounts."""
    ended = EndedSessions(container.database, settings.session_ttl_s)
    mark = GlobalMark(container.cache, container.database)
    return SessionStore(container.cache, ended, settings.session_ttl_s, mark)


def create_account_template(
    container: ServiceContainer, settings: AccountSettings, sessions: SessionStore
) -> AccountTemplateImpl:
    """Signup, login, logout with ``sessions``."""
    logins = LoginLimit(
        container.cache,
        per_account=settings.login_attempts_per_account,
        per_address=settings.login_attempts_per_address,
        window_s=settings.login_window_s,
    )
    signups = SignupLimit(
        container.cache, per_address=settings.signups_per_address, window_s=settings.signup_window_s
    )
    mark = sessions.mark or GlobalMark(container.cache, container.database)
    return AccountTemplateImpl(
        AccountStore(container.database, mark),
        sessions,
        PasswordVault(),
        logins,
        signups,
        mark,
        container.scheduler,
    )


def add_templates(
    context: TemplateContext,
    container: ServiceContainer,
    settings: ServerSettings,
    sessions: SessionStore,
) -> None:
    """Register the host's templates (``netConfig.app``) and then the shipped ones."""
    register_host_templates(context, settings.netConfig.app)
    context.add_template(
        TemplateType.ACCOUNT, create_account_template(container, settings.netConfig, sessions)
    )
    context.add_template(TemplateType.CHAT, create_chat_template(container, settings.chatConfig))
