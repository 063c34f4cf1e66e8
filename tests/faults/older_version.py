"""The version before this one, taken from the repository's own history."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.server_process import ROOT, import_path

OLDER_COMMIT = "c759c3c"
"""The last one before the redesign. A release puts its own commit here."""
_PARTS = ("application", "base_server", "config", "db_scripts")


def unpack_older_version(folder: Path) -> Path:
    """The older version's source in ``folder``; skips the test where git does not have it."""
    command = ["git", "archive", OLDER_COMMIT, *_PARTS]
    try:
        archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"commit {OLDER_COMMIT} is not in a git repository here: {error}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    # A `.pth` file imports `base_server` when Python starts: this one, so that its hook for the
    # bare names does not give the older version the modules of the newer one.
    (folder / "base_server" / "__init__.py").touch()
    _assert_is_imported(folder)
    return folder


def _assert_is_imported(folder: Path) -> None:
    """A process of the older version has no module of this one."""
    program = (
        "import sys, application.base_web_server.lifecycle;"
        "print(*(file for module in sys.modules.values() if (file := getattr(module, '__file__', ''))))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=import_path(folder),
        capture_output=True,
        text=True,
        check=True,
    )
    files = [Path(file) for file in printed.stdout.split()]
    assert folder / "application" / "base_web_server" / "lifecycle.py" in files
    ours = [ROOT / part for part in _PARTS]
    assert not [file for file in files if any(file.is_relative_to(part) for part in ours)]
