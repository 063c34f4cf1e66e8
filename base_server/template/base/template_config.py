"""Configuration section ``templateConfig``: which installation this is and where it keeps its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import StringConstraints

from base_server.service.core.settings import Settings


class TemplateSettings(Settings):
    """``appId`` and ``env`` begin every Redis key; ``data_dir`` holds the embedded servers' files."""

    appId: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,32}$")] = "app"
    """Begins every Redis key; two installations on one Redis need two."""
    env: Literal["LOCAL", "DEBUG", "PROD"] = "LOCAL"
    """Which environment this file is for; it is part of every Redis key too."""
    data_dir: Path = Path("data")
    """Folder of the embedded servers' files; a relative one is taken from the working directory."""
