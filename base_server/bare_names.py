"""The documented bare names: ``service.…``, ``template.…`` and ``application.…`` without
``base_server``.

A bare name is the very module object of the full name, whichever is imported first, unless the host
has a package of that name: its regular package or module on the path wins, and its namespace
package (``template/market`` without ``template/__init__.py``) shares the name with ours.
``chat_template_server_names.pth`` imports ``base_server`` when Python starts, so that a bare name
may come first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import cast
from warnings import warn

ROOT = "base_server"
_FOLDER = Path(__file__).resolve().parent
# In a checkout `application` lies beside this package, in a wheel within it.
_APPLICATION = next(
    folder / "application"
    for folder in (_FOLDER, _FOLDER.parent)
    if (folder / "application").is_dir()
)
_OURS = {
    "service": _FOLDER / "service",
    "template": _FOLDER / "template",
    "application": _APPLICATION,
}

# Modules that docs/integration.md named in 0.1: they work in 0.2 with a warning.
MOVED = {
    "template.chat.chat_settings": "template.chat.settings",
    "template.base.answers": "template.base.error_response",
    "template.base.protocol": "template.base.endpoint",
    "template.base.wire": "template.base.envelope",
    "application.base_web_server.middlewares": "application.base_web_server.http.middlewares",
    "application.base_web_server.routers": "application.base_web_server.http.routers",
}


def install() -> None:
    """Put the finder before all others; a second call changes nothing."""
    if not any(isinstance(finder, _BareNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BareNames())


def give_alias(bare_name: str) -> None:
    """For a package of ours that the path gave under its bare name, before Python knew this module:
    ``PYTHONPATH`` without an installation. There must be no second copy of its modules."""
    sys.modules[bare_name] = import_module(f"{ROOT}.{bare_name}")


class _BareNames(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, _, below = fullname.partition(".")
        if fullname == f"{ROOT}.application":
            return spec_from_file_location(
                fullname,
                _APPLICATION / "__init__.py",
                submodule_search_locations=[str(_APPLICATION)],
            )
        if top not in _OURS:
            return None
        if not below:
            return None if _is_of_the_host(top) else _alias(fullname, f"{ROOT}.{fullname}")
        package, _, leaf = fullname.rpartition(".")
        if package != top:
            # The package was imported just now: an alias has the name of the real one.
            real_package = cast(ModuleSpec, sys.modules[package].__spec__).name
            return _alias(fullname, f"{real_package}.{leaf}") if _is_ours(real_package) else None
        if not _gives_our_modules(top):
            return None
        return _alias(fullname, f"{ROOT}.{fullname}") or PathFinder.find_spec(
            fullname, _namespace_folders(top)
        )


def _is_ours(name: str) -> bool:
    return name.startswith(f"{ROOT}.")


def _is_of_the_host(top: str) -> bool:
    """Whether the path has a package or module of this name that is not ours."""
    found = PathFinder.find_spec(top)
    if found is None:
        return False
    if found.origin is not None:
        return Path(found.origin).resolve().parent != _OURS[top]
    return bool(_namespace_folders(top))


def _namespace_folders(top: str) -> list[str]:
    """The host's folders of a namespace package with this name."""
    found = PathFinder.find_spec(top)
    if found is None or found.origin is not None:
        return []
    return [
        folder
        for folder in found.submodule_search_locations or ()
        if Path(folder).resolve() != _OURS[top]
    ]


def _gives_our_modules(top: str) -> bool:
    """Ours itself, or a namespace package of the host, which has no file of its own."""
    module = sys.modules.get(top)
    return module is not None and (
        module is sys.modules.get(f"{ROOT}.{top}") or getattr(module, "__file__", None) is None
    )


def _alias(bare_name: str, real_name: str) -> ModuleSpec | None:
    if bare_name in MOVED:
        real_name = f"{ROOT}.{MOVED[bare_name]}"
        message = (
            f"{bare_name} is now {real_name}; the old name will be removed in the next version"
        )
        # Frames of the import system do not count: the warning names the line that imports.
        warn(message, DeprecationWarning, stacklevel=3)
    real = find_spec(real_name)
    if real is None:
        return None
    is_package = real.submodule_search_locations is not None
    return ModuleSpec(bare_name, _AliasLoader(real), origin=real.origin, is_package=is_package)


class _AliasLoader(InspectLoader):
    """Loads nothing: imports the real module and gives it."""

    def __init__(self, real: ModuleSpec) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self._real.name)
        self._real_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has put the alias's spec here; relative imports go by the real one.
        module.__spec__ = self._real_spec

    def get_code(self, fullname: str) -> CodeType | None:
        """For ``python -m``, which runs a module under the name that it was given."""
        return cast(InspectLoader, self._real.loader).get_code(self._real.name)

    def get_source(self, fullname: str) -> str | None:
        return cast(InspectLoader, self._real.loader).get_source(self._real.name)

    def is_package(self, fullname: str) -> bool:
        return self._real.submodule_search_locations is not None
