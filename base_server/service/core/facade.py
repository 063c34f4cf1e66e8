"""The documented global names (``LockService.acquire(…)``) over ordinary objects.

A service is an ordinary class whose collaborators come in the constructor. Decorated with
``@facade``, a method can also be called on the class itself: it then uses the one instance
that the server has installed. ``ServiceContainer`` alone installs and clears instances.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, Self, TypeVar, cast

from base_server.service.core.errors import ServiceNotRunning

P = ParamSpec("P")
R = TypeVar("R")


class Facade:
    """Mixin: the class stands for its one installed instance."""

    _installed: ClassVar[Any] = None

    def install(self) -> None:
        """Make this object the one that calls on the class use."""
        type(self)._installed = self

    def uninstall(self) -> None:
        """Undo :meth:`install`, unless another object was installed since."""
        if type(self)._installed is self:
            type(self)._installed = None

    @classmethod
    def get_instance(cls) -> Self:
        """The installed instance; raises :class:`ServiceNotRunning` when there is none."""
        if cls._installed is None:
            raise ServiceNotRunning(
                f"{cls.__name__} is not running: start it with ServiceContainer, "
                "or call an instance of your own."
            )
        return cast(Self, cls._installed)

    @classmethod
    def is_installed(cls) -> bool:
        return cls._installed is not None


class facade(Generic[P, R]):  # noqa: N801 - a decorator, named as one
    """Method decorator: on an instance an ordinary method, on the class one of the installed
    instance."""

    def __init__(self, method: Callable[Concatenate[Any, P], R]) -> None:
        self._method = method
        self.__doc__ = method.__doc__
        self.__wrapped__ = method

    def __get__(self, instance: Any, owner: Any) -> Callable[P, R]:
        target = owner.get_instance() if instance is None else instance
        return cast("Callable[P, R]", self._method.__get__(target, owner))
