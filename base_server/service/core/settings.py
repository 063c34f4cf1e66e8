"""Base of all settings classes: typed, frozen, closed to unknown keys. One class per service."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of the configuration file. Field names are the file's keys; units stand in the names."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
