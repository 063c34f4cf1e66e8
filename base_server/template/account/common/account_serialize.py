"""Requests and responses of the account endpoints (1001..1003)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints

from base_server.template.base.envelope import Request, Response
from base_server.template.base.field_types import AccountId, InWords


def _platform_text(value: Any) -> Any:
    """Game clients send the platform as a number or a name; it is kept as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must not contain control characters")
    return value


# Optional texts may be empty, which is as good as absent: many game clients send every field.
Password = Annotated[str, StringConstraints(min_length=8, max_length=128)]
Nickname = Annotated[str, StringConstraints(max_length=64), AfterValidator(_one_line)]
Email = Annotated[
    str,
    StringConstraints(max_length=254, pattern=r"^$|^[^@\s\p{C}]{1,64}@[^@\s\p{C}]+$"),
    InWords("must be an address, name@host, of at most 254 characters, or empty"),
]
_PLATFORM = r"^[A-Za-z0-9._-]{0,32}$"
_PlatformName = Annotated[str, StringConstraints(pattern=_PLATFORM)]
PlatformType = Annotated[
    str,
    BeforeValidator(_platform_text, json_schema_input_type=_PlatformName | int),
    StringConstraints(pattern=_PLATFORM, strict=True),
    InWords("must be a number, or at most 32 characters of A-Z a-z 0-9 . _ -"),
    Field(
        description="Platform of the player (`ios`, `steam`, `3`, …): your own name or number,"
        " stored as text."
    ),
]


class SignupRequest(Request):
    account_id: AccountId
    password: Password = Field(repr=False)
    nickname: Nickname | None = None
    email: Email | None = None
    platform_type: PlatformType | None = None


class SignupResponse(Response):
    account_id: str = ""


class LoginRequest(Request):
    account_id: AccountId
    password: Password = Field(repr=False)
    platform_type: PlatformType | None = None


class AccountView(BaseModel):
    """What an account may see of itself; ``created_at`` is ISO 8601 in UTC."""

    account_id: str
    nickname: str
    created_at: str


class LoginResponse(Response):
    accessToken: str = Field(default="", repr=False)
    account: AccountView | None = None


class LogoutRequest(Request):
    pass


class LogoutResponse(Response):
    pass
