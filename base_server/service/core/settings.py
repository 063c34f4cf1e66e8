"""Base of all settings classes: typed, frozen, closed to unknown keys. One class per service."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LONGEST_TTL_S = 315_360_000
"""Ten years. Redis refuses times far beyond; nothing here is meant to be kept longer by a TTL."""

TtlSeconds = Annotated[int, Field(ge=1, le=LONGEST_TTL_S)]
"""How long Redis keeps something."""


def _is_host(value: str) -> str:
    if not value or any(letter.isspace() for letter in value):
        raise ValueError("must be a host name or an address, without spaces")
    return value


Host = Annotated[str, AfterValidator(_is_host)]
"""A host name or an address. (Empty, it would mean another thing to every library.)"""


class Settings(BaseModel):
    """A section of the configuration file. Field names are the file's keys; units stand in the
    names.

    Every field says what it means, by a docstring under it or a description: docs/configuration.md
    and config/schema.json are printed from them.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )
