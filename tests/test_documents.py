"""Links, commands, configuration keys, tables and examples of the documents match the code."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator
from difflib import unified_diff
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import pytest
from pydantic import BaseModel

from application.base_web_server.config.environment import annotation_at, find_overrides
from application.base_web_server.config.loading import ENVIRONMENTS, ServerSettings, load_settings
from application.manage.__main__ import main as manage
from base_server.bare_names import MOVED
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.errors import StartError
from base_server.service.db.db_settings import DatabaseSettings
from base_server.service.llm.llm_settings import LlmSettings
from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_type import TemplateType
from base_server.template.chat.settings import ChatSettings
from docs import generate
from tests.backends_mariadb import DatabaseBackend
from tests.chat_harness import running_harness
from tests.faults.embedded_harness import EMBEDDED_FAULTS
from tests.faults.losses import SHARED_FAULTS
from tests.openai_stub import OpenAIStub
from tests.server_process import ServerProcess, running_server
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
README_KO = ROOT / "README.ko.md"
CONFIGURATION = ROOT / "docs/configuration.md"
CHAT_README = ROOT / "base_server/template/chat/README.md"
TUTORIALS = [ROOT / "docs/tutorial.md", ROOT / "docs/tutorial.ko.md"]
DECISIONS = sorted((ROOT / "docs/decisions").glob("*.md"))
PAGES = [
    README,
    README_KO,
    ROOT / "CHANGELOG.md",
    CHAT_README,
    ROOT / "base_server/service/redis_client/README.md",
    ROOT / "benchmarks/RESULTS.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
# Words that a native reader stumbles over: "again", "permanently", "fix" and a noun say the same.
ARCHAIC = re.compile(r"\b(anew|for good|mend(s|ed|ing)?|whoever|for who)\b", re.IGNORECASE)
# What PROD takes from the environment because no file has it.
SECRETS = {"BASE_SERVER__DATABASECONFIG__PASSWORD": "of the test", "OPENAI_API_KEY": "of the test"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """What ``make run`` starts, for all that is followed literally."""
    with running_server(tmp_path_factory.mktemp("documents") / "data") as running:
        yield running


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=_name)


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", _text(page), flags=re.DOTALL | re.MULTILINE)


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", _text(page), flags=re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings."""
    headings = re.findall(r"^#+ +(.*)$", _prose(page), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert not broken


@each_page
def test_links_name_the_file_that_they_lead_to(page: Path) -> None:
    links = re.findall(r"\[([\w.]+\.\w+)\]\(([^)#\s]+)\)", _prose(page))
    assert not [(name, target) for name, target in links if Path(target).name != name]


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    """Names in backticks: from the root, or (in the chat's own words) a file or script of the chat.

    An ``__init__.py`` may be named as one that must not exist; a path of the server begins with /.
    """
    chat = CHAT_README.parent
    missing = []
    for name in re.findall(r"`([\w./-]+\.(?:py|lua|sql|json|toml|lock|md))`", _prose(page)):
        roots = (ROOT, page.parent, chat, chat / "cache", *(chat / "cache").glob("lua/**"))
        if (
            not name.startswith("/")
            and not name.endswith("__init__.py")
            and not any((root / name).exists() for root in roots)
        ):
            missing.append(name)
    assert not missing


def test_names_in_how_to_change_it_exist() -> None:
    _, _, section = _text(ROOT / "docs/architecture.md").partition("## How to change it")
    folders = ("application", "base_server", "tests", "db_scripts")
    code = "".join(
        _text(file)
        for folder in folders
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".sql", ".lua")
    )
    names = set(re.findall(r"`(\w+)`", section))
    assert len(names) > 5
    assert not [name for name in names if not re.search(rf"\b{name}\b", code)]


def test_the_chat_readme_shows_every_file_of_the_chat() -> None:
    folder = CHAT_README.parent
    (tree,) = re.findall(
        r"^```\n(base_server/template/chat/.*?)^```$", _text(CHAT_README), re.DOTALL | re.MULTILINE
    )
    shown = Counter(re.findall(r"── (\w+\.py)", tree))
    there = Counter(file.name for file in folder.rglob("*.py") if file.name != "__init__.py")
    assert shown == there


@each_page
def test_plain_words(page: Path) -> None:
    text = re.sub(r"`[^`]*`", "", _prose(page))
    assert not [found[0] for found in ARCHAIC.finditer(text)]


def test_plain_words_in_code() -> None:
    """The messages of two log lines, and the key ``mend``, are promised as they are."""
    promised = r"failed for good and its|are planned anew|\bmend=|\"mend\"|``mend``|for who in"
    found = [
        f"{_name(file)}:{number}"
        for folder in ("application", "base_server", "benchmarks", "docs", "examples", "tests")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".lua", ".js", ".mjs")
        and file != Path(__file__)
        and not {"vendor", "swagger-ui"} & set(file.parts)
        for number, line in enumerate(_text(file).splitlines(), 1)
        if ARCHAIC.search(re.sub(promised, "", line))
    ]
    assert not found


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", _text(ROOT / "Makefile"), flags=re.MULTILINE))
    named = set(
        re.findall(r"(?:`|^|\s)make ([a-z-]+)(?=[`\s;]|$)", _code(page), flags=re.MULTILINE)
    )
    assert named <= targets


def test_all_make_targets_are_phony_and_told_by_help() -> None:
    makefile = _text(ROOT / "Makefile")
    (phony,) = re.findall(r"^\.PHONY: ([a-z -]+)$", makefile, flags=re.MULTILINE)
    assert set(phony.split()) == set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE))


def test_tests_that_make_names_exist() -> None:
    paths = set(re.findall(r"\btests/[\w/.]+", _text(ROOT / "Makefile")))
    assert [path for path in paths if not (ROOT / path).exists()] == []


def _code(page: Path) -> str:
    """What stands in backticks and code blocks."""
    inline = re.findall(r"`([^`\n]+)`", _prose(page))
    return "\n".join(
        [*inline, *re.findall(r"^```\w*\n(.*?)^```$", _text(page), flags=re.DOTALL | re.MULTILINE)]
    )


@each_page
def test_modules_to_run_exist(page: Path) -> None:
    for module, options in re.findall(r"python -m (application[\w.]*)([^`\n|]*)", _code(page)):
        assert find_spec(f"{module}.__main__"), module
        assert set(re.findall(r"--env ([A-Z]+)\b", options)) <= set(ENVIRONMENTS)


@each_page
def test_the_operators_commands_exist(page: Path) -> None:
    for arguments in re.findall(
        r"python -m application\.manage ((?:--?\w+ [A-Z]+ )?[a-z]+ [a-z]+)", _code(page)
    ):
        with pytest.raises(SystemExit) as ended:
            manage([*arguments.split(), "--help"])
        assert ended.value.code == 0, arguments


@each_page
def test_documented_modules_exist(page: Path) -> None:
    for module in re.findall(r"\*\*`((?:service|template)\.[\w.]+)`\*\*", _text(page)):
        assert find_spec(module), module


@each_page
def test_configuration_keys_exist(page: Path) -> None:
    wrong = [
        f"{section}.{key}"
        for section, key in re.findall(r"`(\w+Config)\.([\w.]+)`", _text(page))
        if annotation_at(ServerSettings, (section, *key.split("."))) is None
    ]
    assert not wrong


@each_page
def test_environment_variables_mean_a_key(page: Path) -> None:
    if page == CONFIGURATION:
        pytest.skip("its own test takes every variable")
    shipped = load_settings("LOCAL", environ={}).model_dump(mode="json")
    for name, value in re.findall(r"\b(BASE_SERVER__\w*\w)(?:=(\S+))?", _code(page)):
        if name.strip("_") != "BASE_SERVER":
            assert list(find_overrides(ServerSettings, shipped, {name: value or "1"})), name


def test_default_of_every_setting_by_environment_changes_nothing() -> None:
    """Every setting is described and its default by environment changes nothing."""
    rows = re.findall(
        r"^\| `(\w+)` \| `(BASE_SERVER__\w+)` \| (.+?) \| (\S+) \| (.+) \|$",
        _text(CONFIGURATION),
        re.M,
    )
    assert len(rows) > 90
    environ = {}
    for key, variable, _, default, meaning in rows:
        assert variable.endswith(key.upper())
        assert meaning[0].isupper() or meaning[0] in "`…/0", meaning
        if default.startswith("`") and default != "`null`" and "__NAME__" not in variable:
            value = json.loads(default.strip("`"))
            environ[variable] = value if isinstance(value, str) else json.dumps(value)
    assert load_settings("LOCAL", environ=environ) == load_settings("LOCAL", environ={}).model_copy(
        update={"llmConfig": LlmSettings()}
    )


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _models(inner)


def test_every_setting_says_what_it_means() -> None:
    silent = [
        f"{model.__name__}.{name}"
        for model in _models(ServerSettings)
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert not silent


def test_the_schema_for_editors_takes_the_shipped_files_and_no_unknown_key() -> None:
    schema = json.loads(_text(ROOT / "config/schema.json"))
    jsonschema_rs.meta.validate(schema)
    validator = jsonschema_rs.validator_for(schema)
    for file in sorted((ROOT / "config").glob("base_web_server-*.json")):
        content = json.loads(_text(file))
        assert (file.parent / content["$schema"]).samefile(ROOT / "config/schema.json")
        assert not list(validator.iter_errors(content)), file.name
        content["netConfig"]["prot"] = 1
        (error,) = validator.iter_errors(content)
        assert "prot" in error.message


def test_every_failure_drill_and_every_alert_is_told() -> None:
    page = _text(ROOT / "docs/operations.md")
    drills = {
        name
        for row in re.findall(r"^\| ([a-z][^|]+) \| [^|]+ \| [^|]+ \| [^|]+ \|$", page, re.M)
        for name in row.split(" · ")
    }
    known = {*SHARED_FAULTS, *(f"embedded: {name}" for name in EMBEDDED_FAULTS)}
    assert drills - {"drill"} == known
    alerts = re.findall(r"- alert: (\w+)", _text(ROOT / "deploy/prometheus/alerts.yml"))
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", page, re.M) == alerts


def test_log_lines_that_operators_are_told_of_are_logged() -> None:
    code = "".join(
        _text(file)
        for folder in ("application", "base_server")
        for file in (ROOT / folder).rglob("*.py")
    )
    told = re.findall(r"log's '([^']+)'", _text(ROOT / "deploy/prometheus/alerts.yml"))
    told += re.findall(r"[Ll]og(?:'s| says| line) `([^`]+)`", _text(ROOT / "docs/operations.md"))
    assert len(told) > 2
    for message in told:
        assert f'"{message}"' in code, message


def _log_calls() -> Iterator[tuple[str, str, set[str | None]]]:
    """Level, message and keys of every call of the Logger; None in the keys is for ``**fields``.

    A local ``log`` is ``Logger.info`` or ``Logger.warn``, as the case may be."""
    for folder in ("application", "base_server"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(_text(file))):
                match node:
                    case ast.Call(
                        func=ast.Attribute(value=ast.Name("Logger"), attr=method),
                        args=[ast.Constant(value=str(message))],
                        keywords=keywords,
                    ):
                        level = method.replace("warn", "warning")
                        yield level, message, {each.arg for each in keywords} - {"exc_info"}
                    case ast.Call(
                        func=ast.Name("log"),
                        args=[ast.Constant(value=str(message))],
                        keywords=keywords,
                    ):
                        for level in ("info", "warning"):
                            yield level, message, {each.arg for each in keywords}


def test_log_messages_that_operators_rely_on_are_logged_with_their_keys() -> None:
    logged: dict[tuple[str, str], set[str | None]] = {}
    for level, message, keys in _log_calls():
        logged.setdefault((level, message), set()).update(keys)
    rows = re.findall(
        r"^\| ((?:info|warning|error|, )+) \| `([^`]+)` \| (.*) \|$",
        _text(ROOT / "docs/upgrading.md"),
        re.M,
    )
    assert len(rows) > 30
    for levels, message, cell in rows:
        named = set(re.findall(r"`(\w+)`", cell))
        for level in levels.split(", "):
            keys = logged[level, message]
            assert keys - {None} <= named, message
            assert None in keys or named <= keys, message


def test_every_old_name_that_still_works_is_listed() -> None:
    page = _text(ROOT / "docs/upgrading.md")
    for old, new in MOVED.items():
        assert f"`{old}`" in page, old
        assert new in page, new
    for file in (ROOT / "base_server").rglob("*.py"):
        for names in re.findall(r"= old_names\(\s*__name__,(.*?)\)\n", _text(file), re.DOTALL):
            for old, new in re.findall(r'(\w+)="(\w+)"', names):
                assert re.search(rf"`@?{old}\b", page), old
                assert re.search(rf"`@?{new}\b", page), new


def test_what_an_operator_pastes_acts_on_prod() -> None:
    for page in (
        README,
        README_KO,
        ROOT / "docs/operations.md",
        ROOT / "docs/upgrading.md",
        CONFIGURATION,
    ):
        commands = [
            line
            for block in _blocks(page, "sh")
            for line in block.splitlines()
            if "application.manage" in line
        ]
        assert commands, page
        for command in commands:
            assert re.search(r"application\.manage --env (PROD|DEBUG) ", command), (page, command)


def test_the_operators_commands_run_as_they_stand(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a running server of LOCAL: all that need no id of a room or a letter, page by page."""
    monkeypatch.setenv("BASE_SERVER__TEMPLATECONFIG__DATA_DIR", str(server.data_dir))
    monkeypatch.setenv("BASE_SERVER__NETCONFIG__PORT", server.base_url.rpartition(":")[2])
    for page in (README, ROOT / "docs/operations.md", ROOT / "docs/upgrading.md", CONFIGURATION):
        commands = re.findall(
            r"^\.venv/bin/python -m application\.manage --env PROD ([^#\n]+)",
            _text(page),
            flags=re.M,
        )
        assert commands, page
        for command in commands:
            if not re.search(r"\b[A-Z]{2,}", command):
                assert manage(command.split()) == 0, (command, capsys.readouterr())


def test_an_environment_variable_without_a_key_would_be_noticed() -> None:
    with pytest.raises(StartError, match="unknown key"):
        list(find_overrides(ServerSettings, {}, {"BASE_SERVER__NETCONFIG__PROT": "1"}))


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_the_shipped_configuration_loads(env: str) -> None:
    settings = load_settings(env, environ=SECRETS)  # type: ignore[arg-type]
    assert settings.templateConfig.env == env
    assert settings.netConfig.port == 8080


def test_the_chat_readme_has_every_setting_with_its_shipped_value() -> None:
    told = dict(
        re.findall(r"^\| `chatConfig\.(\w+)` \| (\S+) \|", _text(CHAT_README), flags=re.MULTILINE)
    )
    assert told == {name: str(field.default) for name, field in ChatSettings.model_fields.items()}


@pytest.mark.parametrize("page", generate.pages(), ids=_name)
def test_what_is_printed_from_code_is_current(page: Path) -> None:
    diff = unified_diff(_text(page).splitlines(), generate.pages()[page].splitlines(), lineterm="")
    assert not "\n".join(diff), "run `make docs`"


def test_the_printed_tables_stand_where_they_belong() -> None:
    names = {
        name: set(re.findall(r"<!-- begin ([\w-]+) -->", _text(ROOT / name)))
        for name in generate.WITH_TABLES
    }
    assert names["docs/architecture.md"] == {
        "room-states",
        "message-states",
        "reply-states",
        "reply-ends",
    }
    assert names["base_server/template/chat/README.md"] == {
        "room-states",
        "message-states",
        "chat-protocols",
    }


def test_decisions_are_numbered_and_name_problem_choice_and_cost() -> None:
    numbers = [int(page.name[:4]) for page in DECISIONS]
    assert numbers == sorted(set(numbers)), (
        "each number once; one that was given and not needed stays free"
    )
    for page in DECISIONS:
        assert _text(page).startswith(f"# {page.name[:4]} "), page.name
        assert re.findall(r"^\*\*(\w+)\.\*\*", _text(page), flags=re.MULTILINE) == [
            "Problem",
            "Choice",
            "Cost",
        ], page.name


def _sections(page: Path) -> dict[str, str]:
    """The sections G1, G2, … of a page, by their heading."""
    parts = re.split(r"^## (?=G\d )", _text(page), flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: part for part in parts}


def test_each_guarantee_has_limits_and_evidence() -> None:
    promises, evidence = (
        _sections(ROOT / f"docs/{name}.md") for name in ("guarantees", "evidence")
    )
    assert [heading[:2] for heading in promises] == [f"G{number}" for number in range(1, 10)]
    assert list(evidence) == list(promises)
    for heading in promises:
        assert "Not promised:" in promises[heading], heading
        assert "](../tests/" in evidence[heading], heading


@pytest.mark.parametrize(
    ("page", "code"), [(page, code) for page in PAGES for code in _blocks(page, "python")]
)
def test_python_examples_import_what_exists(page: Path, code: str) -> None:
    for module, name in _imported(code):
        assert hasattr(importlib.import_module(module), name), (
            f"{_name(page)}: from {module} import {name}"
        )


def _imported(code: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


async def test_the_chat_readmes_examples_do_what_they_say(tmp_path: Path, app_id: str) -> None:
    names: dict[str, Any] = {}
    for code in _blocks(CHAT_README, "python"):
        exec(code, names)
    database = DatabaseBackend("sqlite", DatabaseSettings(timeout_s=PATIENCE_S), tmp_path, None)
    async with (
        OpenAIStub() as provider,
        running_harness(CacheSettings(type="embedded"), database, app_id, provider) as chat,
    ):
        TemplateContext.add_template(TemplateType.CHAT, chat.template)
        user = await chat.user()
        room = await chat.room(user)
        quest = names["QuestTemplate"]()
        answers = [await quest.ask(user, room.room_id, "어디로?", "quest-1") for _ in range(2)]
        assert answers[0] == answers[1] != ""
        assert len(provider.requests) == 1
        session = user.session
        message = {
            "message_id": "from-outside",
            "room_id": room.room_id,
            "sender_type": "USER",
            "content": "🎉",
        }
        for _ in range(2):
            await names["save"](session.account_db_key, session.shard_id, message)
        await chat.persist()
        assert await chat.questions(user, room.room_id) == ["어디로?", "🎉"]
        await names["manage_chat_state"]("msg_456")
        assert await chat.state("msg_456") == "PROCESSING"
        TemplateContext.clear()


def _commands(page: Path) -> list[str]:
    """The page's shell commands without their comments."""
    return [re.sub(r" *#.*", "", block) for block in _blocks(page, "sh")]


def test_the_korean_readme_has_the_readmes_commands() -> None:
    assert _commands(README_KO) == _commands(README)


def test_the_readmes_walk_works_as_it_stands(server: ServerProcess) -> None:
    (walk,) = (block for block in _blocks(README, "sh") if "curl" in block)
    assert walk.startswith("ADDRESS=http://127.0.0.1:8080\n")
    script = walk.replace("http://127.0.0.1:8080", server.base_url)
    walked = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert walked.stdout.count('"errorCode":0') == 3, walked.stdout
    assert walked.stdout.count("Hello! 안녕하세요 👋") >= 2
    assert walked.stdout.count('"sender_type":"AI"') == 2


@pytest.mark.parametrize("page", TUTORIALS, ids=_name)
def test_the_tutorial_works_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    (start,) = (block for block in _blocks(page, "sh") if "make run" in block)
    assignments = shlex.split(start.replace("\\\n", "").removesuffix("make run\n"))
    persona = dict(assignment.split("=", 1) for assignment in assignments)
    script = "\n".join(block for block in _blocks(page, "sh") if block != start)
    shipped = "http://127.0.0.1:8080"
    assert script.startswith(f"ADDRESS={shipped}\n")
    with running_server(tmp_path / "data", **persona) as server:
        walked = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace(shipped, server.base_url)],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    said = walked.stdout
    answers = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [answer["errorCode"] for answer in answers] == [0] * 7 + [1004, 0, 0], said
    signed_up, _, sent, again, stopped, listed, older, refused, personas, own = answers
    assert (signed_up["sequence"], refused["sequence"]) == (1, 42)
    assert sent["message"]["message_id"] == again["message"]["message_id"]
    streamed, resumed = said.split("event: message.accepted")[1].split("event: reply.done")[:2]
    texts = [re.findall(r'"text":"([^"]*)"', part) for part in (streamed, resumed)]
    whole = stopped["message"]["content"]
    assert "".join(texts[0]) == whole
    assert whole.endswith("".join(texts[1]))
    assert len(texts[1]) < len(texts[0])
    first, second, _ = re.findall(r'\\"content\\": \\"([^"]*)\\"', script)
    assert [message["content"] for message in listed["messages"]] == [second, whole]
    assert older["messages"][0]["content"] == first
    assert "MINER" in json.dumps(personas)
    assert own["message"]["metadata"]["ai_persona"] == "MINER"


def test_the_korean_tutorial_has_the_tutorials_commands() -> None:
    """But for the texts of a title, a message and a persona, which are Korean there."""
    english, korean = (
        [re.sub(r'(TITLE|PROMPT|title|content)\W+[^"\\]+', r"\1", each) for each in _commands(page)]
        for page in TUTORIALS
    )
    assert korean == english
