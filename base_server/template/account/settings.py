"""Settings of sessions, logins and signups; the server reads them from ``netConfig``."""

from __future__ import annotations

from pydantic import Field

from base_server.service.core.settings import LONGEST_TTL_S, Settings, TtlSeconds


class AccountSettings(Settings):
    """Shipped values. Times in seconds."""

    session_ttl_s: int = Field(default=86_400, ge=60, le=LONGEST_TTL_S)
    """A session ends when it was not used for this long."""
    login_attempts_per_account: int = Field(default=10, ge=1)
    """Failed logins of one account within `login_window_s`; then 1010."""
    login_attempts_per_address: int = Field(default=100, ge=1)
    """The same for one client address (IPv6: its first 64 bits)."""
    login_window_s: TtlSeconds = 60
    """Seconds over which failed logins are counted."""
    signups_per_address: int = Field(default=100, ge=1)
    """Signups that one client address (IPv6: its first 64 bits) may try within `signup_window_s`;
    then 1010.
    """
    signup_window_s: TtlSeconds = 3600
    """Seconds over which signups are counted. Behind a proxy, name it in ``trusted_proxies``, or
    all clients are one address.
    """
