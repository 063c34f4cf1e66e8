"""Full Redis key names, built here and nowhere else: ``{app}:{env}:{tag}:kind:id[:rest]``."""

from __future__ import annotations

import re

from base_server.service.cache.partition import Partitions
from base_server.service.core.errors import StartError

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Keyspace:
    """The keys of one application in one environment, e.g. ``app:LOCAL:{07}:room:<id>``."""

    def __init__(self, app_id: str, env: str, partitions: Partitions) -> None:
        for name, value in (("templateConfig.appId", app_id), ("templateConfig.env", env)):
            if not _NAME.fullmatch(value):
                raise StartError(
                    f"{name} is {value!r}: use 1 to 64 of A-Z a-z 0-9 . _ - "
                    "(it begins every Redis key)."
                )
        self.partitions = partitions
        self.prefix = f"{app_id}:{env}:"
        self.partition_count_key = f"{self.prefix}partitions"
        self._beginnings: dict[int, str] = {}

    def key(self, logical: str, partition: int | None = None) -> str:
        """The full name of ``kind:id[:rest]``, in the partition of ``id`` or in the given one."""
        if partition is None:
            partition = self.partitions.of_key(logical)
        if (beginning := self._beginnings.get(partition)) is None:
            beginning = self._beginnings[partition] = (
                f"{self.prefix}{{{self.partitions.tag(partition)}}}:"
            )
        return beginning + logical

    def pattern(self, logical: str) -> str:
        """What the full names of ``logical`` (a glob, ``kind:*``) match in all partitions."""
        return f"{self.prefix}{{*}}:{logical}"

    def logical(self, name: str) -> str:
        """The logical part of a full name."""
        return name.partition("}:")[2]
