"""Names of the shipped templates. A host registers its own under any other text."""

from __future__ import annotations

from enum import StrEnum


class TemplateType(StrEnum):
    ACCOUNT = "account"
    CHAT = "chat"
