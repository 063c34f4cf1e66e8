"""Reads what is in deploy/ as an engine would, as far as that needs no engine."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


@dataclass(frozen=True)
class Instruction:
    """A line of a Dockerfile, its continuations joined."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """Of the exec form, else split at spaces."""
        if self.text.startswith("["):
            words: list[str] = json.loads(self.text)
            return words
        return self.text.split()


def read_dockerfile(file: Path) -> list[Instruction]:
    lines = [
        line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [Instruction(*line.split(" ", 1)) for line in joined.splitlines() if line.strip()]


def last_stage(instructions: list[Instruction]) -> list[Instruction]:
    """What makes the image that is shipped."""
    start = max(i for i, instruction in enumerate(instructions) if instruction.name == "FROM")
    return instructions[start:]


def read_yaml(name: str) -> dict[str, Any]:
    """A file of deploy/ that holds one document."""
    content = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def filled(value: str, variables: dict[str, str]) -> str:
    """``value`` with compose's ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?why}`` filled in.
    Raises KeyError.
    """

    def fill(found: re.Match[str]) -> str:
        name, _, default = found[1].partition(":-")
        return (
            variables.get(name, default) if ":-" in found[1] else variables[name.partition(":?")[0]]
        )

    return re.sub(r"\$\{([^}]+)\}", fill, value)


def dotenv(file: Path) -> dict[str, str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
