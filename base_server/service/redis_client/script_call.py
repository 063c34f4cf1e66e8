"""A call of a script as an object: a field for each name of its header, and a typed answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_type_hints

from base_server.service.redis_client.script import Parameter, Script, ScriptError

Answer = TypeVar("Answer")
CallClass = TypeVar("CallClass", bound="type[ScriptCall[Any]]")
_WORDS = {None: "", False: "", True: "1"}


class _Values:
    """What a call has for the names of a header's line."""

    def __init__(self, parameters: Sequence[Parameter], path_of: Callable[[str], str]) -> None:
        paths = [path_of(each.name) for each in parameters]
        has_rest = bool(parameters) and parameters[-1].is_rest
        self._count = len(paths) - has_rest
        self._rest = attrgetter(paths[-1]) if has_rest else None
        # One getter for all: 0.7 µs for 45 values. Of a single path it would be no tuple.
        fixed = paths[: self._count]
        self._fixed = attrgetter(*fixed, *fixed[:1]) if fixed else lambda _: ()

    def __call__(self, call: object) -> list[Any]:
        values = [*self._fixed(call)[: self._count]]
        if self._rest is not None:
            values += self._rest(call)
        return values


class RunsScripts(Protocol):
    """The one method of CacheClient that a call needs."""

    async def run_script(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any],
        *,
        repeatable: bool = True,
    ) -> Any: ...


class ScriptCall(Generic[Answer]):
    """Base of the calls. One is a dataclass with slots, bound to its script by :func:`bind_call`.

    A field has the name of a key or an argument; a name that ends the header with ``...`` is a
    sequence. What belongs together is one field: an object that has names of the header. For a
    key None leaves it out (the last one alone); for an argument None and False are '', True is '1'.
    """

    __slots__ = ()
    script: ClassVar[Script]
    _keys: ClassVar[_Values]
    _args: ClassVar[_Values]

    @staticmethod
    def read(answer: Any) -> Answer:
        """What the script answered, as a type to be matched."""
        raise NotImplementedError

    def keys(self) -> list[str]:
        """KEYS, in the order of the header."""
        keys = self._keys(self)
        return keys if keys[-1] is not None else keys[:-1]

    def args(self) -> list[Any]:
        """ARGV, in the order of the header."""
        return [
            _WORDS[value] if value is None or value is True or value is False else value
            for value in self._args(self)
        ]

    async def run(self, cache: RunsScripts, *, repeatable: bool = True) -> Answer:
        """Run the script and read its answer. ``repeatable``: as of CacheClient.run_script."""
        keys, args = self.keys(), self.args()
        return self.read(await cache.run_script(self.script, keys, args, repeatable=repeatable))


def bind_call(script: Script, paths: Mapping[str, str]) -> Callable[[CallClass], CallClass]:
    """Bind a class of calls to its script. ``paths``: where a name of the header is found in a
    field's object (``room_record`` in ``room.record``); fields of a dataclass need none.

    Raises :class:`ScriptError` unless the class has exactly the names of the header: at import, so
    a script and its call cannot differ in a server that runs."""

    def bind(call: CallClass) -> CallClass:
        own = {field.name for field in fields(call)}  # type: ignore[arg-type] # a dataclass
        inner: dict[str, str] = {}
        for name, hint in get_type_hints(call).items():
            if name in own and is_dataclass(hint):
                inner |= {field.name: f"{name}.{field.name}" for field in fields(hint)}
        if call.read is ScriptCall.read:
            raise ScriptError(f"{call.__name__} does not read what {script.name}.lua answers")
        used: set[str] = set()

        def path_of(name: str) -> str:
            path = name if name in own else inner.get(name) or paths.get(name, "")
            if path.partition(".")[0] not in own:
                raise ScriptError(f"{call.__name__} has no {name} of {script.name}.lua")
            used.add(path.partition(".")[0])
            return path

        call.script = script
        call._keys = _Values(script.header.keys, path_of)
        call._args = _Values(script.header.args, path_of)
        if unknown := sorted(own - used):
            raise ScriptError(f"{script.name}.lua has no {unknown[0]} of {call.__name__}")
        return call

    return bind
