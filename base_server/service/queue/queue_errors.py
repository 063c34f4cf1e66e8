"""Failures of the queue that say that it is full; everything stays as it was."""

from __future__ import annotations

from base_server.service.core.errors import ServiceUnavailable


class QueueFull(ServiceUnavailable):
    """The stream is at ``queueConfig.max_backlog``: nothing was stored."""

    def __init__(self, queue_name: str, limit: int) -> None:
        super().__init__(
            "queue", f"{queue_name} has a stream at its limit of {limit} waiting entries"
        )


class DeadLettersFull(ServiceUnavailable):
    """The stream is at ``queueConfig.dead_letter_limit``: the entries stay in the stream."""

    def __init__(self, queue_name: str, limit: int) -> None:
        super().__init__(
            "queue",
            f"{queue_name} has a stream at its limit of {limit} dead letters; replay or drop them",
        )
