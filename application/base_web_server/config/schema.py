"""The configuration as a JSON schema: editors complete and check by it, the reference is printed from it."""

from __future__ import annotations

from typing import Any

from .loading import ServerSettings


def config_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a configuration file. Descriptions are those of the settings classes."""
    schema = ServerSettings.model_json_schema(mode="validation")
    for part in (schema, *schema["$defs"].values()):
        _without_titles(part)
    schema["properties"] = {
        "$schema": {
            "type": "string",
            "description": "This file, for editors; the server passes over it.",
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
