"""``templateConfig``: which installation this is and where it keeps its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import StringConstraints

from base_server.service.core.settings import Settings


class TemplateSettings(Settings):
    """``appId`` and ``env`` begin every Redis key."""

    appId: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,32}$")] = "app"
    """Prefix of every Redis key; two installations on one Redis need different ones."""
    env: Literal["LOCAL", "DEBUG", "PROD"] = "LOCAL"
    """The environment of this file; it is part of every Redis key too."""
    data_dir: Path = Path("data")
    """Folder of the embedded servers' files, relative to the working directory."""
