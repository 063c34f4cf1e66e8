"""What a wheel carries is enough: installed alone, it finds its configuration and its database
scripts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hatchling.build import build_wheel

from tests.server_process import ROOT, server_environment


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        name = build_wheel(str(folder))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
    ]
    subprocess.run([*pip, "--target", str(folder / "site"), str(folder / name)], check=True)
    return folder / "site"


def run(installed: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python away from the repository, with the wheel before everything else."""
    environment = server_environment(tmp_path / "data") | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_its_top_level_is_ours_alone(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"base_server", "chat_template_server_names.pth"}


def test_it_makes_its_databases(installed: Path, tmp_path: Path) -> None:
    # Without the checkout, whose `application` would be a package of a host.
    look = f"import sys; sys.path.remove({str(ROOT)!r}); import os\n"
    look += (
        "import application.base_web_server.config.loading as c, service.service_container as s\n"
    )
    look += "print(c.CONFIG_FOLDER, s.SCRIPTS_FOLDER, sep=os.linesep)"
    found = run(installed, tmp_path, "-c", look)
    folders = found.stdout.split(os.linesep)[:2]
    assert [Path(line).is_relative_to(installed) for line in folders] == [True, True], found.stderr
    manage = ("-m", "base_server.application.manage", "db")
    pending = run(installed, tmp_path, *manage, "status")
    assert (pending.returncode, "pending  tables/0001_chat_rooms" in pending.stdout) == (1, True), (
        pending.stderr
    )
    applied = run(installed, tmp_path, *manage, "apply")
    assert applied.returncode == 0, applied.stderr
    assert run(installed, tmp_path, *manage, "status").stdout.count(": current") == 3
