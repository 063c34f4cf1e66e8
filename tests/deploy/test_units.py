"""The systemd unit and the Kubernetes example say what the server needs: its commands, its probes,
time to stop.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from application.base_web_server.__main__ import main
from application.base_web_server.config.loading import ServerSettings, load_settings
from application.base_web_server.config.warnings import find_warnings
from tests.deploy.deployment import DEPLOY, ROOT, last_stage, read_dockerfile

UNIT = (DEPLOY / "systemd/base-server.service").read_text(encoding="utf-8")
MANIFESTS: list[dict[str, Any]] = list(
    yaml.safe_load_all((DEPLOY / "kubernetes/chat-server.yaml").read_text())
)
SECRETS = {
    "BASE_SERVER__DATABASECONFIG__PASSWORD": "of the test",
    "BASE_SERVER__CACHECONFIG__PASSWORD": "of the test",
    "OPENAI_API_KEY": "of the test",
}


def manifest(kind: str) -> dict[str, Any]:
    (found,) = (document for document in MANIFESTS if document["kind"] == kind)
    return found


def container(kind: str) -> dict[str, Any]:
    (found,) = manifest(kind)["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def settings() -> ServerSettings:
    return load_settings("PROD", environ=SECRETS | manifest("ConfigMap")["data"])


def longest_stop_s() -> float:
    net = load_settings("PROD", environ=SECRETS).netConfig
    return net.quiet_s + net.drain_timeout_s + 20


def test_the_unit_runs_modules_that_exist() -> None:
    commands = dict(re.findall(r"^(ExecStart\w*)=(.+)$", UNIT, flags=re.MULTILINE))
    assert set(commands) == {"ExecStartPre", "ExecStart"}
    for command in commands.values():
        words = shlex.split(command)
        assert words[0] == "/opt/base_server/.venv/bin/python"
        assert find_spec(f"{words[2]}.__main__")
    # Unknown arguments end in argparse, with 2.
    assert (
        main([*shlex.split(commands["ExecStart"])[3:], "--config", "/there/is/no/such/file"]) == 1
    )


def test_the_unit_gives_time_to_stop() -> None:
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, flags=re.MULTILINE)
    assert int(stop_s) >= longest_stop_s()


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not on PATH (Debian: apt-get install systemd)")
    unit = tmp_path / "base-server.service"
    unit.write_text(UNIT.replace("/opt/base_server", str(ROOT)), encoding="utf-8")
    checked = subprocess.run(
        [tool, "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_pods_settings_are_settings_and_nothing_in_them_is_doubtful() -> None:
    assert find_warnings(settings()) == []


def test_the_probes_ask_what_they_should_where_it_is_served() -> None:
    server = container("Deployment")
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert ports == {"http": settings().netConfig.port, "admin": settings().netConfig.admin_port}
    asked = {
        kind: server[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness", "startup")
    }
    assert {probe["port"] for probe in asked.values()} == {"admin"}
    assert {kind: probe["path"] for kind, probe in asked.items()} == {
        "liveness": "/livez",
        "readiness": "/readyz",
        "startup": "/livez",
    }
    # Seen as not ready while it still serves.
    assert server["readinessProbe"]["periodSeconds"] < settings().netConfig.quiet_s
    (service,) = manifest("Service")["spec"]["ports"]
    assert service["targetPort"] == "http"


def test_a_pod_has_time_to_stop_and_is_nobody_in_particular() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= longest_stop_s()
    assert pod["securityContext"]["runAsNonRoot"] is True
    user = next(
        i.text
        for i in last_stage(read_dockerfile(DEPLOY / "docker/Dockerfile"))
        if i.name == "USER"
    )
    assert pod["securityContext"]["runAsUser"] == int(user)
    mounted = {mount["name"] for mount in container("Deployment")["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_job_and_pods_are_of_one_image_and_know_the_same() -> None:
    job, server = container("Job"), container("Deployment")
    assert job["image"] == server["image"]
    assert job["envFrom"] == server["envFrom"]
    assert find_spec(f"{job['command'][2]}.__main__")
    assert (
        manifest("Deployment")["spec"]["selector"]["matchLabels"]
        == manifest("Service")["spec"]["selector"]
    )
