"""Bare names (``service.…``, ``template.…``, ``application.…``) in hosts with and without packages
of these names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server_process import ROOT, server_environment

REGULAR = "regular package"
NAMESPACE = "namespace package"


def host_folder(parent: Path, packages: dict[str, str]) -> Path:
    """A source root of a host: each of ``packages`` has a module ``market``."""
    folder = parent / "host"
    for name, kind in packages.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "market.py").write_text("WHOSE = 'the host'\n")
        if kind == REGULAR:
            (folder / name / "__init__.py").write_text("WHOSE = 'the host'\n")
    folder.mkdir(exist_ok=True)
    return folder


def run_python(tmp_path: Path, code: str, *path: Path, warnings: str = "error") -> str:
    environment = server_environment(tmp_path / "data")
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, "-W", f"{warnings}::DeprecationWarning", "-c", code],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("on_path", [[], [ROOT / "base_server"]], ids=["installed", "source-root"])
@pytest.mark.parametrize(
    "name",
    [
        "service.cache.cache_client",
        "service.llm.AIChat_service",
        "template.chat.chat_template_impl",
        "template.chat.common.chat_model",
        "application.base_web_server.lifecycle",
    ],
)
def test_a_bare_name_gives_the_very_module(name: str, on_path: list[Path], tmp_path: Path) -> None:
    for first, second in ((name, f"base_server.{name}"), (f"base_server.{name}", name)):
        code = f"import sys, {first}; import {second}\n"
        code += f"assert sys.modules[{first!r}] is sys.modules[{second!r}]\n"
        code += f"assert {first} is {second}\n"
        code += f"assert {name}.__spec__.name == 'base_server.{name}'\n"
        run_python(tmp_path, code, *on_path)


@pytest.mark.parametrize(
    "name", ["service.core.errors", "template.base.session_info", "application.base_web_server"]
)
def test_a_bare_name_is_no_second_copy_without_an_installation(name: str, tmp_path: Path) -> None:
    """``PYTHONPATH`` alone, as in the image: Python has not imported ``base_server`` before."""
    code = f"import sys\nassert 'base_server' not in sys.modules\nimport {name}\n"
    code += f"import base_server.{name}\n"
    code += f"assert sys.modules[{name!r}] is sys.modules['base_server.{name}']\n"
    roots = os.pathsep.join(map(str, (ROOT, ROOT / "base_server")))
    subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env={"PYTHONPATH": roots}, check=True
    )


@pytest.mark.parametrize(
    "packages",
    [
        {"service": REGULAR},
        {"template": REGULAR},
        {"application": REGULAR},
        {"service": REGULAR, "template": REGULAR, "application": REGULAR},
    ],
    ids="-".join,
)
def test_a_package_of_the_host_keeps_its_name(packages: dict[str, str], tmp_path: Path) -> None:
    """All of ours is there under the root; a bare name that the host does not use is ours."""
    code = "import base_server.application.base_web_server.lifecycle\n"
    code += "import base_server.template.chat.chat_template_impl\n"
    ours_below = {"service": "cache", "template": "chat", "application": "manage"}
    for name, below in ours_below.items():
        if name in packages:
            code += (
                f"import {name}.market\nassert {name}.WHOSE == {name}.market.WHOSE == 'the host'\n"
            )
            code += f"try: import {name}.{below}\nexcept ImportError: pass\n"
            code += "else: raise AssertionError('half of each')\n"
        else:
            code += f"import {name}, base_server.{name}\nassert {name} is base_server.{name}\n"
    run_python(tmp_path, code, host_folder(tmp_path, packages))


@pytest.mark.parametrize("is_late", [False, True], ids=["on-the-path", "added-later"])
def test_a_namespace_package_of_the_host_shares_its_name(is_late: bool, tmp_path: Path) -> None:
    """``template/market`` without ``template/__init__.py``, as in the user's own server."""
    folder = host_folder(tmp_path, {"template": NAMESPACE})
    code = (
        f"import sys, template.base.base_template\nsys.path.append({str(folder)!r})\n"
        if is_late
        else ""
    )
    code += "import template.market, template.chat.chat_template_impl as bare\n"
    code += "import base_server.template.chat.chat_template_impl as full\n"
    code += "assert template.market.WHOSE == 'the host' and bare is full\n"
    run_python(tmp_path, code, *([] if is_late else [folder]))


def test_a_module_that_does_not_exist_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    code = "try: import service.nothing\nexcept ModuleNotFoundError as error: print(error.name)\n"
    assert run_python(tmp_path, code).strip() == "service.nothing"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("template.chat.chat_settings", "base_server.template.chat.settings"),
        ("template.base.protocol", "base_server.template.base.endpoint"),
        (
            "application.base_web_server.routers.protocol_router",
            "base_server.application.base_web_server.http.routers.protocol_router",
        ),
    ],
)
def test_a_name_of_the_version_before_works_and_warns(old: str, new: str, tmp_path: Path) -> None:
    code = "import sys, warnings\nwith warnings.catch_warnings(record=True) as seen:\n"
    code += f"    warnings.simplefilter('always')\n    import {old}\n"
    code += f"import {new}\nassert sys.modules[{old!r}] is sys.modules[{new!r}]\n"
    code += "print(*(f'{w.filename}: {w.message}' for w in seen), sep='\\n')\n"
    (warning,) = run_python(tmp_path, code, warnings="default").splitlines()
    assert warning.startswith("<string>: ")
    assert "will be removed" in warning


@pytest.mark.parametrize("program", ["application.manage", "base_server.application.manage"])
def test_our_programs_run_by_either_name(program: str, tmp_path: Path) -> None:
    packages = {"application": REGULAR} if program.startswith("base_server") else {}
    done = subprocess.run(
        [sys.executable, "-m", program, "--env", "LOCAL", "config", "check"],
        cwd=host_folder(tmp_path, packages),
        env=server_environment(tmp_path / "data"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
