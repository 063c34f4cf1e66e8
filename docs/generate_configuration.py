"""Prints docs/configuration.md and config/schema.json from the settings classes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from application.base_web_server.config.environment import PREFIX
from application.base_web_server.config.schema import config_schema

_HEAD = """# Configuration

Printed from the settings classes by `make docs`. One JSON file per environment in
[config/](../config), chosen by `--env LOCAL|DEBUG|PROD`, or `--config FILE`; what a file leaves out
has the default below. An environment variable, written as in the second column (in any case), wins
over the file. Lists and objects are given as JSON. An unknown key, a wrong type or a missing secret
stops the start with one line that names the fix.

```sh
.venv/bin/python -m application.manage --env PROD config check   # errors and doubtful values
.venv/bin/python -m application.manage --env PROD config print   # effective values, secrets hidden
```

For completion and checks in an editor a file may begin with `"$schema": "schema.json"`
([config/schema.json](../config/schema.json)). Secrets belong into the environment; they appear in
no log, error or `config print`. What Redis keeps for a time, it keeps for ten years (315360000 s)
at most.
"""
# Names that the user chooses, in the place of a persona's or a provider's.
_CHOSEN = {"personas": "NAME", "providers": "NAME"}


def schema_file() -> str:
    """The whole of config/schema.json."""
    return json.dumps(config_schema(), indent=2, ensure_ascii=False).replace("``", "`") + "\n"


def configuration_page() -> str:
    """The whole of docs/configuration.md."""
    schema = config_schema()
    parts = [_HEAD]
    for section, described in schema["properties"].items():
        if "$ref" in described:
            parts.append(f"\n## {section}\n\n{_text(described)}\n")
            parts += _tables(schema, described["$ref"], (section,))
    return "".join(parts)


def _tables(schema: dict[str, Any], ref: str, path: tuple[str, ...]) -> Iterator[str]:
    """The table of the object at ``path``, then those of the objects inside it."""
    inner: list[tuple[str, tuple[str, ...]]] = []
    yield "\n| key | environment | type | default | meaning |\n| --- | --- | --- | --- | --- |\n"
    for name, field in schema["$defs"][ref.rpartition("/")[2]]["properties"].items():
        here = (*path, name)
        if (item := _object_inside(field)) is not None:
            inner.append(
                (item, (*here, _CHOSEN[name]) if name in _CHOSEN else (f"{'.'.join(here)}[]",))
            )
        variable = "" if "[]" in path[0] else f"`{PREFIX}{'__'.join(here).upper()}`"
        yield f"| `{name}` | {variable} | {_type(field)} | {_default(field)} | {_text(field)} |\n"
    for item, inner_path in inner:
        yield f"\nEach of `{'.'.join(inner_path)}`:\n"
        yield from _tables(schema, item, inner_path)


def _object_inside(field: dict[str, Any]) -> str | None:
    """The reference to what a list or a map of objects holds."""
    held = [field.get("items", {}), *field.get("patternProperties", {}).values()]
    return next((item["$ref"] for item in held if "$ref" in item), None)


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(kind) for kind in field["anyOf"])
    if "enum" in field:
        return " · ".join(f"`{value}`" for value in field["enum"])
    if field.get("format") == "password":
        return "secret"
    name = {"array": "list", "string": "text"}.get(field.get("type", ""), str(field.get("type")))
    bounds = (
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
    )
    limits = [f"{sign} {field[bound]:.12g}" for bound, sign in bounds if bound in field]
    return f"{name} {', '.join(limits)}".strip()


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return "as shipped" if _object_inside(field) else "–"
    if _object_inside(field):
        return "as shipped"
    return f"`{json.dumps(field['default'], ensure_ascii=False)}`"


def _text(field: dict[str, Any]) -> str:
    return " ".join(str(field["description"]).replace("``", "`").replace("|", "\\|").split())
