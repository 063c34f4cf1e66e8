"""Passwords that cost a millisecond: what a hash costs is about logins, and the tests make
thousands of accounts.

Servers in a fresh interpreter, and tests with the fixture ``real_hashes``, hash as users' servers
do.
"""

from __future__ import annotations

from functools import partial

from argon2 import PasswordHasher

from base_server.template.account import password_vault


def use_quick_hashes() -> None:
    """From here on, in this process."""
    quick = partial(PasswordHasher, time_cost=1, memory_cost=8, parallelism=1)
    password_vault.PasswordHasher = quick  # type: ignore[assignment,misc]
