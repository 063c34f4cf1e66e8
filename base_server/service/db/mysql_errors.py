"""What a MySQL or MariaDB error number means for the caller."""

from __future__ import annotations

from enum import Enum

import pymysql.err

from base_server.service.core.errors import (
    DataRefused,
    NotDeployed,
    OutcomeUnknown,
    ServiceUnavailable,
)
from base_server.service.db.database import SERVICE


class Verdict(Enum):
    REFUSED = "the data itself cannot be stored"
    BUSY = "rolled back because of another transaction; the same call may work at once"
    OUTCOME_UNKNOWN = "no answer that says whether the call was executed"
    UNAVAILABLE = "the server cannot serve now and executed nothing"


_REFUSED = frozenset(
    {
        # null, duplicate, packet too large, out of range, truncated, wrong date, wrong character or
        # value, too long
        1048, 1062, 1153, 1169, 1264, 1265, 1292, 1300, 1364, 1366, 1367, 1406, 1411, 1441, 1690,
        # foreign keys, checks (MySQL, MariaDB)
        1216, 1217, 1451, 1452, 3819, 4025,
        # SIGNAL without a number of its own
        1644,
        # JSON: MySQL, then MariaDB
        3140, 3141, 3143, 3144, 3147, 3156, 3157, 3665, 3666, 3669, 4037, 4038, 4174, 4177, 4178,
    }
)  # fmt: skip
_BUSY = frozenset({1205, 1213})
_OUTCOME_UNKNOWN = frozenset(
    {
        # shutdown, aborted, network, killed query, killed connection, statement time-out, idle
        # disconnect
        1053, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1317, 1927, 1969, 3024, 4031,
        # the client's own: gone away, lost, out of sync, malformed packet, lost at
        2006, 2013, 2014, 2027, 2055,
    }
)  # fmt: skip
_OWN_SIGNALS = 20_000
"""From here on numbers are those that procedures give with SIGNAL ... SET MYSQL_ERRNO."""
UNKNOWN_DATABASE = 1049
UNKNOWN_PROCEDURE = 1305
NO_SUCH_TABLE = 1146


def error_number(error: pymysql.err.Error) -> int:
    """The server's number, 0 for an error without one."""
    number = error.args[0] if error.args else 0
    # PyMySQL reads the upper half as negative.
    return number % 65536 if isinstance(number, int) else 0


def describe(error: pymysql.err.Error) -> str:
    """Number and text, and why a connection could not be made."""
    text = str(error.args[-1]) if error.args else type(error).__name__
    return f"{error_number(error)} {text}" + (f" ({error.__cause__})" if error.__cause__ else "")


def judge(error: pymysql.err.Error) -> Verdict:
    """What ``error`` says about a call that was sent on an open connection."""
    number = error_number(error)
    if number in _REFUSED or number >= _OWN_SIGNALS:
        return Verdict.REFUSED
    if number in _BUSY:
        return Verdict.BUSY
    if number in _OUTCOME_UNKNOWN or number == 0:  # without a number: the protocol itself broke
        return Verdict.OUTCOME_UNKNOWN
    return Verdict.UNAVAILABLE


def translate(error: pymysql.err.Error, label: str) -> DataRefused | ServiceUnavailable:
    """The error of the database port that stands for ``error``."""
    if error_number(error) == UNKNOWN_PROCEDURE:
        return NotDeployed(SERVICE, f"{label}: {describe(error)}")
    match judge(error):
        case Verdict.REFUSED:
            return DataRefused(error_number(error), str(error.args[-1]))
        case Verdict.OUTCOME_UNKNOWN:
            return OutcomeUnknown(SERVICE, f"{label}: {describe(error)}")
        case _:
            return ServiceUnavailable(SERVICE, f"{label}: {describe(error)}")
