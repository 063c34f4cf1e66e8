"""The configuration as a JSON schema, for editors and for the reference in docs/."""

from __future__ import annotations

from typing import Any

from .loading import ServerSettings


def config_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a configuration file; descriptions are the settings' docstrings."""
    schema = ServerSettings.model_json_schema(mode="validation")
    for part in (schema, *schema["$defs"].values()):
        _without_titles(part)
    schema["properties"] = {
        "$schema": {
            "type": "string",
            "description": "This file, for editors; the server ignores it.",
        },
        **schema["properties"],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of the chat template server",
        **schema,
    }


def _without_titles(schema: dict[str, Any]) -> None:
    """pydantic's titles only repeat the names."""
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
