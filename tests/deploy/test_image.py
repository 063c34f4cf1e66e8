"""The Dockerfile: small and careful by reading it; and what it would run, run in a plain folder
without an engine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.backends_redis import free_port
from tests.deploy.deployment import DEPLOY, ROOT, last_stage, read_dockerfile

DOCKERFILE = read_dockerfile(DEPLOY / "docker/Dockerfile")
IMAGE = last_stage(DOCKERFILE)


def of(name: str) -> list[str]:
    return [instruction.text for instruction in IMAGE if instruction.name == name]


def test_image_takes_named_versions_and_hashed_packages() -> None:
    """It takes named versions and hashed packages from nowhere in particular."""
    for instruction in DOCKERFILE:
        if instruction.name == "FROM":
            image = instruction.words[0]
            assert re.fullmatch(r"[a-z]+:[\w.-]+", image), image
            assert "latest" not in image
    assert not [instruction for instruction in DOCKERFILE if instruction.name == "ADD"]
    (install,) = (i.text for i in DOCKERFILE if i.name == "RUN" and "pip install" in i.text)
    assert "--require-hashes -r /tmp/requirements-server.lock" in install
    assert "--no-cache-dir" in install
    assert "index-url" not in install


def test_it_runs_as_nobody_in_particular() -> None:
    (user,) = of("USER")
    assert int(user) >= 10000
    made = next(text for text in of("RUN") if "useradd" in text)
    assert f"--uid {user}" in made
    order = [instruction.name for instruction in IMAGE]
    assert order.index("USER") > max(i for i, name in enumerate(order) if name in ("RUN", "COPY"))


def test_what_is_copied_exists_and_reaches_the_engine() -> None:
    allowed = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for instruction in DOCKERFILE:
        if instruction.name == "COPY" and "--from" not in instruction.text:
            source = instruction.words[0]
            assert (ROOT / source).exists(), source
            assert any(fnmatch(source, pattern) for pattern in allowed), source
    assert all((ROOT / pattern).exists() for pattern in allowed)


def test_the_servers_packages_are_those_that_are_tested_and_no_others() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([\w.-]+==[^ ;]+)", (ROOT / name).read_text(), flags=re.MULTILINE))

    shipped, tested = pins("requirements-server.lock"), pins("requirements.lock")
    assert shipped <= tested
    assert not any(pin.startswith(("pytest", "ruff", "mypy", "hypothesis")) for pin in shipped)


@pytest.fixture
def container(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The image's files in a folder, and its environment with the folder's paths."""
    root = tmp_path / "root"
    (workdir,) = of("WORKDIR")
    for text in of("COPY"):
        *_, source, target = text.split()
        if "--from" not in text:
            place = root / workdir.lstrip("/") / target
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, place)
    environment = dict(re.findall(r"(\w+)=(\S+)", " ".join(of("ENV"))))
    shipped_paths = {
        workdir: str(root / workdir.lstrip("/")),
        "/var/lib/base_server": str(tmp_path / "data"),
    }
    for there, here in shipped_paths.items():
        environment = {
            name: re.sub(rf"(?<![\w/]){there}", here, value) for name, value in environment.items()
        }
    # The packages of /opt/venv are those of this test's environment.
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.defpath}"
    environment["BASE_SERVER__NETCONFIG__PORT"] = str(free_port())
    environment["BASE_SERVER__NETCONFIG__ADMIN_PORT"] = str(free_port())
    return root / workdir.lstrip("/"), environment


def test_what_the_image_starts_becomes_healthy_and_stops_in_order(
    container: tuple[Path, dict[str, str]],
) -> None:
    folder, environment = container
    words = {i.name: i.words for i in IMAGE if i.name in ("ENTRYPOINT", "CMD")}
    healthcheck = next(i.text for i in IMAGE if i.name == "HEALTHCHECK").partition("CMD ")[2]
    check = [str(word) for word in json.loads(healthcheck)]

    def is_healthy() -> bool:
        return (
            subprocess.run(
                check, cwd=folder, env=environment, capture_output=True, check=False
            ).returncode
            == 0
        )

    assert not is_healthy()
    server = subprocess.Popen(
        [*words["ENTRYPOINT"], *words["CMD"]],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("Ready at http://127.0.0.1:")
        assert is_healthy()
    finally:
        server.send_signal(getattr(signal, of("STOPSIGNAL")[0]))
        server.communicate(timeout=60)
    assert server.returncode == 0
    assert (Path(environment["BASE_SERVER__TEMPLATECONFIG__DATA_DIR"]) / "db").is_dir()
