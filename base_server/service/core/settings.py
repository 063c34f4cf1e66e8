"""Base of all settings classes: typed, frozen, closed to unknown keys. One class per service."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of the configuration file. Field names are the file's keys; units stand in the names.

    Every field says what it means, by a docstring under it or a description: docs/configuration.md and
    config/schema.json are printed from them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)
