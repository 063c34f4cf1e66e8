"""Dashboard and alert rules ask for numbers that the server has, with labels that those have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import application.base_web_server.lifecycle  # noqa: F401 - all that counts is imported
from application.base_web_server.observability.metrics import Metrics
from base_server.service.core.instruments import declared_instruments
from base_server.service.service_container import ServiceContainer, ServiceSettings
from tests.deploy.deployment import DEPLOY, read_yaml

# Given to every series by Prometheus itself.
SCRAPED = {"instance", "job", "le"}
# Of what the application counts itself.
LABELS = {
    "base_server_requests": {"protocol", "error_code"},
    "base_server_request_seconds": {"protocol"},
    "base_server_source_up": {"source"},
    "base_server_degraded": {"check"},
    "base_server_queue_waiting": {"queue"},
    "base_server_queue_oldest_age_seconds": {"queue"},
    "base_server_queue_dead_letters": {"queue"},
}
SUFFIXES = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


async def exposed(folder: Path) -> dict[str, set[str]]:
    """Name of a series → its labels."""
    metrics = Metrics(ServiceContainer(ServiceSettings("m", "LOCAL", folder)).queue)
    text = metrics.render(ready=True, queues={}).decode()
    labels = LABELS | {
        f"base_server_{each.name}": set(each.labels) for each in declared_instruments()
    }
    return {
        family + suffix: labels.get(family.removesuffix("_total"), set())
        for family, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, flags=re.MULTILINE)
        for suffix in SUFFIXES[kind]
    }


def expressions() -> Iterator[tuple[str, str]]:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/chat.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]
    for group in read_yaml("prometheus/alerts.yml")["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


async def test_every_number_that_is_asked_for_exists_and_has_the_labels(tmp_path: Path) -> None:
    series = await exposed(tmp_path)
    asked = list(expressions())
    assert len(asked) > 40
    for where, expr in asked:
        labels = set()
        for name, matchers in re.findall(
            r"\b((?:base_server|process)_\w+|up)(?:\{([^}]*)\})?", expr
        ):
            assert name in series or name == "up", f"{where}: {name}"
            labels |= series.get(name, set())
            matched = set(re.findall(r"(\w+)(?:=|!)", matchers))
            assert matched <= series.get(name, set()) | SCRAPED, f"{where}: {name} has no {matched}"
        for by in re.findall(r"by \(([^)]*)\)", expr):
            assert set(by.split(", ")) <= labels | SCRAPED, f"{where}: by {by}"


async def test_no_number_of_ours_is_left_unlooked_at(tmp_path: Path) -> None:
    asked = " ".join(expr for _, expr in expressions())
    ours = {
        re.sub(r"_(total|created|bucket|sum|count|info)$", "", name)
        for name in await exposed(tmp_path)
    }
    unseen = {name for name in ours if name.startswith("base_server_") and name not in asked}
    assert unseen <= {"base_server_build"}


def test_every_alert_says_what_to_do_and_who_must_know() -> None:
    for group in read_yaml("prometheus/alerts.yml")["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]
            assert rule["labels"]["severity"] in ("page", "warn")


def test_prometheus_own_tool_takes_rules_and_configuration() -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not on PATH (Debian: apt-get install prometheus)")
    rules_test = Path(__file__).parent / "alerts_test.yml"
    for arguments in (
        ["check", "config", DEPLOY / "prometheus/prometheus.yml"],
        ["test", "rules", rules_test],
    ):
        checked = subprocess.run(
            [tool, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
