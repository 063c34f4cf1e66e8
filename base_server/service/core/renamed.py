"""Names that a module had in the version before: they work for one version, with a warning."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any
from warnings import warn


def old_names(module: str, **names: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of ``module``: each key is an old name, its value the name to use.

    A new name with dots is one of another module.
    """

    def give(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        warn_renamed(f"{module}.{name}", names[name], stacklevel=3)
        new_module, _, new_name = names[name].rpartition(".")
        return getattr(import_module(new_module or module), new_name)

    return give


def warn_renamed(old: str, new: str, stacklevel: int = 2) -> None:
    """Warn the caller ``stacklevel`` frames above that ``old`` is now ``new``."""
    message = f"{old} is now {new}; the old name will be removed in the next version"
    warn(message, DeprecationWarning, stacklevel=stacklevel + 1)
