"""Failures that services report. Templates translate them into wire errors
(``base_server.template.base.errors``)."""

from __future__ import annotations


class ServiceError(Exception):
    """A service could not do what it was asked; the text is for the log, never for a client."""


class ServiceUnavailable(ServiceError):
    """A needed server is down, refuses, or did not answer in time. Asking again later may succeed.

    ``service`` is ``"cache"``, ``"database"``, ``"queue"``, …; nothing was executed unless the
    subclass :class:`OutcomeUnknown` says otherwise.
    """

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(f"{service}: {reason}")
        self.service = service
        self.reason = reason


class NotDeployed(ServiceUnavailable):
    """What was called is not there: a procedure, a shard. The log has the fix. To a client it is
    an outage like others: procedures are replaced while servers run, so events stay queued."""


class OutcomeUnknown(ServiceUnavailable):
    """The request was sent and its answer did not arrive: it may or may not have been executed."""


class ConnectionLostInFlight(OutcomeUnknown):
    """The connection broke after the request was sent: a repeat may be answered at once."""


class PreconditionFailed(ServiceError):
    """The precondition of a script does not hold: nothing of the script was executed."""


class ServiceNotRunning(ServiceError):
    """A documented global name was used before its service was started or after it was stopped."""


class DataRefused(ServiceError):
    """The database refused the data itself (too long, duplicate, malformed): retrying cannot help.

    ``errno`` is the database's own number (MySQL error number, SQLite extended result code).
    """

    def __init__(self, errno: int, reason: str) -> None:
        super().__init__(f"database error {errno}: {reason}")
        self.errno = errno
        self.reason = reason


class StartError(Exception):
    """The server cannot start. One line: what is wrong, where, and how to fix it."""
