"""The durability level of a commit, judged by the settings that the database reports."""

from __future__ import annotations

from collections.abc import Mapping

from base_server.service.core.durability import Durability

_SQLITE = "a commit is on the disk when it returns: it survives a kill and a power cut"
_FLUSH = {
    "0": "a killed server loses up to a second of commits (set innodb_flush_log_at_trx_commit = 1)",
    "1": "a commit survives a killed server and a power cut",
    "2": "a commit survives a killed server, a power cut loses up to a second "
    "(innodb_flush_log_at_trx_commit = 2)",
}
_BINLOG = (
    "; its binary log may be behind after a power cut, and replicas with it (sync_binlog is not 1)"
)


def judge(server: str, settings: Mapping[str, str]) -> Durability:
    """``settings``: innodb_flush_log_at_trx_commit, sync_binlog, log_bin of a MySQL; synchronous of
    SQLite."""
    if "synchronous" in settings:
        safe = settings["synchronous"] in ("2", "3")
        sentence = _SQLITE if safe else "a power cut may lose commits (synchronous is not FULL)"
        return Durability(server, safe, sentence, dict(settings))
    flush = settings.get("innodb_flush_log_at_trx_commit", "")
    sentence = _FLUSH.get(flush, "it does not report how it keeps a commit")
    if settings.get("log_bin") == "1" and settings.get("sync_binlog") != "1":
        sentence += _BINLOG
    return Durability(server, flush in ("1", "2"), sentence, dict(settings))
