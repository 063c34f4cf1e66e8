"""``BASE_SERVER__SECTION__KEY``: environment variables for any value, case-insensitive."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Union, get_args, get_origin

import jiter
from pydantic import BaseModel, TypeAdapter, ValidationError

from base_server.service.core.errors import StartError

PREFIX = "BASE_SERVER__"


@dataclass(frozen=True)
class Override:
    """A value from the environment; ``path`` has the spelling of the configuration file."""

    variable: str
    path: tuple[str, ...]
    value: Any


def find_overrides(
    model: type[BaseModel], data: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterator[Override]:
    """The overrides in ``environ`` for ``model``; ``data`` is the content of its file.

    Text is turned into the type of its key; lists and objects are JSON.
    Raises :class:`StartError` naming the variable for an unknown key or a value of the wrong type.
    """
    for variable in sorted(environ):
        if variable.upper().startswith(PREFIX):
            parts = variable[len(PREFIX) :].split("__")
            path, annotation = _resolve(variable, parts, model, data)
            yield Override(variable, path, _convert(variable, annotation, environ[variable]))


def put(data: MutableMapping[str, Any], override: Override) -> None:
    """Write an override into ``data``, creating the objects above it."""
    *parents, last = override.path
    section: MutableMapping[str, Any] = data
    for key in parents:
        if not isinstance(section.get(key), dict):
            section[key] = {}
        section = section[key]
    section[last] = override.value


def is_secret(annotation: Any) -> bool:
    """Whether a key of this type may hold a secret."""
    return "Secret" in str(annotation)


def annotation_at(model: type[BaseModel], path: tuple[str | int, ...]) -> Any:
    """The type of the configuration at ``path``, or None for an unknown key."""
    annotation: Any = model
    for part in path:
        inner = _container(annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            field = inner.model_fields.get(str(part))
            annotation = field.annotation if field else None
        elif get_args(inner):
            annotation = (
                get_args(inner)[-1] if get_origin(inner) is not tuple else get_args(inner)[0]
            )
        else:
            return None
    return annotation


def known_keys(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The keys that the object at ``path`` may have; empty if any name is allowed."""
    inner = _container(annotation_at(model, path))
    return (
        list(inner.model_fields) if isinstance(inner, type) and issubclass(inner, BaseModel) else []
    )


def suggestion(key: str, known: list[str]) -> str:
    """The fix for an unknown key."""
    lower = {name.lower(): name for name in known}
    close = get_close_matches(key.lower(), lower, n=1)
    return f"did you mean '{lower[close[0]]}'?" if close else f"known keys: {', '.join(known)}."


def _resolve(
    variable: str, parts: list[str], model: type[BaseModel], data: Mapping[str, Any]
) -> tuple[tuple[str, ...], Any]:
    path: tuple[str, ...] = ()
    here: Any = data
    for part in parts:
        known = known_keys(model, path)
        # Personas, say, may have any name: an existing one matches in any case.
        present = list(here) if isinstance(here, Mapping) else []
        key = next((name for name in [*known, *present] if name.lower() == part.lower()), None)
        if key is None and (known or not part):
            raise StartError(
                f"Environment variable {variable}: unknown key '{part}'; {suggestion(part, known)}"
            )
        path = (*path, key or part)
        here = here.get(key) if isinstance(here, Mapping) and key else None
    annotation = annotation_at(model, path)
    if annotation is None:
        raise StartError(
            f"Environment variable {variable}: '{'.'.join(path)}' is not a configuration key."
        )
    return path, annotation


def _convert(variable: str, annotation: Any, text: str) -> Any:
    """``text`` as a JSON value for a key of this type."""
    inner = _container(annotation)
    shown = "(hidden)" if is_secret(annotation) else repr(text[:80])
    if get_origin(inner) is not None or (isinstance(inner, type) and issubclass(inner, BaseModel)):
        try:
            return jiter.from_json(text.encode(), allow_inf_nan=False, catch_duplicate_keys=True)
        except ValueError:
            raise StartError(
                f"Environment variable {variable}: {shown} is not JSON; write a list or object."
            ) from None
    try:
        value = TypeAdapter(annotation).validate_strings(text)
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise StartError(f"Environment variable {variable}: {shown}: {reason}.") from None
    return value if isinstance(value, (bool, int, float)) else text


def _container(annotation: Any) -> Any:
    """The type without ``Annotated`` and ``| None``; generic containers keep their arguments."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _container(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        alternatives = [item for item in get_args(annotation) if item is not types.NoneType]
        return _container(alternatives[0]) if len(alternatives) == 1 else str
    return str if str(origin) == "typing.Literal" else annotation
