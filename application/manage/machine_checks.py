"""``doctor``'s checks of this machine: ports, the data folder, its disk, open files."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import sys
import tempfile
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from ..base_web_server.config.loading import ServerSettings
from ..base_web_server.config.net_settings import NetSettings
from .finding import Finding, Level

_SPACE_NOTE, _SPACE_BAD = 1 << 30, 100 << 20
_DESCRIPTORS = 4096


async def check_ports(net: NetSettings) -> list[Finding]:
    """Free, or in use by this server."""
    ports = {"netConfig.port": net.port} | (
        {} if net.admin_port is None else {"netConfig.admin_port": net.admin_port}
    )
    livez_port = net.port if net.admin_port is None else net.admin_port
    alive = await asyncio.to_thread(_is_alive, net.host, livez_port)
    return [_port(key, net.host, port, alive) for key, port in ports.items()]


def _port(key: str, host: str, port: int, alive: bool) -> Finding:
    if port == 0:
        return Finding(key, Level.GOOD, "0: any free port")
    try:
        with socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ):
            return Finding(key, Level.GOOD, f"{host}:{port} is free")
    except OSError as error:
        if error.errno == errno.EADDRINUSE and alive:
            return Finding(key, Level.GOOD, f"a server is alive on {host}:{port}")
        variable = f"BASE_SERVER__NETCONFIG__{key.partition('.')[2].upper()}"
        fix = f"end the program that uses it, or set {key} ({variable})"
        return Finding(
            key, Level.BAD, f"{host}:{port} cannot be used ({os.strerror(error.errno or 0)})", fix
        )


def _is_alive(host: str, port: int) -> bool:
    connection = HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/livez")
        return b'"alive"' in connection.getresponse().read(200)
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def check_folder(settings: ServerSettings) -> list[Finding]:
    """Whether the embedded servers can keep their files."""
    if settings.cacheConfig.type != "embedded" and settings.databaseConfig.type != "sqlite":
        return []
    folder = settings.templateConfig.data_dir.absolute()
    there = (
        folder if folder.exists() else next(parent for parent in folder.parents if parent.exists())
    )
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        fix = (
            "set templateConfig.data_dir (BASE_SERVER__TEMPLATECONFIG__DATA_DIR) to a folder that"
            " can be written"
        )
        return [
            Finding("data_dir", Level.BAD, f"{there} cannot be written ({error.strerror})", fix)
        ]
    made = "" if there == folder else "; it will be made at the first start"
    return [Finding("data_dir", Level.GOOD, f"{folder} can be written{made}"), _space(there)]


def _space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{free / (1 << 30):.1f} GiB are free"
    if free >= _SPACE_NOTE:
        return Finding("data_dir", Level.GOOD, text)
    level = Level.BAD if free < _SPACE_BAD else Level.DOUBTFUL
    return Finding(
        "data_dir",
        level,
        text,
        "free space, or move templateConfig.data_dir: on a full disk all writes are refused",
    )


def check_descriptors() -> list[Finding]:
    """The limit of file descriptors: each stream and each connection needs one."""
    if sys.platform == "win32":
        return []
    import resource  # noqa: PLC0415 - POSIX only

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = (
        f"{soft} files and connections may be open"
        if soft != resource.RLIM_INFINITY
        else "no limit is set"
    )
    if soft == resource.RLIM_INFINITY or soft >= _DESCRIPTORS:
        return [Finding("descriptors", Level.GOOD, text)]
    fix = f"ulimit -n {_DESCRIPTORS} or more (systemd: LimitNOFILE): each open stream takes one"
    return [Finding("descriptors", Level.DOUBTFUL, text, fix)]
