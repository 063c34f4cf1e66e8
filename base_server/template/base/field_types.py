"""Types of request fields that several endpoints share."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, StringConstraints, WithJsonSchema
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class InWords:
    """Put last into ``Annotated``: the error message for any invalid value."""

    text: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source), custom_error_type="in_words", custom_error_message=self.text
        )


def canonical_account_id(text: str) -> str:
    """The one form of an account id (NFKC, case folded); applying it twice changes nothing.

    Raises ``ValueError`` unless the result is 3..64 of ``a-z 0-9 . _ -``.
    """
    canonical = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if not 3 <= len(canonical) <= 64 or not set(canonical) <= set(
        "abcdefghijklmnopqrstuvwxyz0123456789._-"
    ):
        raise ValueError("must be 3..64 characters of a-z 0-9 . _ -")
    return canonical


AccountId = Annotated[
    str,
    StringConstraints(max_length=512),
    AfterValidator(canonical_account_id),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^[A-Za-z0-9._-]{3,64}$",
            "description": "Kept as NFKC in lower case: 3..64 of `a-z 0-9 . _ -`.",
        },
        mode="validation",
    ),
]
# Ids of rooms, messages and client ids: ours and foreign ones.
Identifier = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$"),
    InWords("must be 1..64 characters of A-Z a-z 0-9 . _ -"),
]
PageNumber = Annotated[int, Field(ge=1, le=1_000_000)]
PageLimit = Annotated[int, Field(ge=1, le=100)]
