"""Encrypted connections to MySQL, and logins that need a library of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from base_server.service.core.errors import ServiceUnavailable, StartError
from base_server.service.db.databases import Databases, ShardAddress
from base_server.service.db.db_settings import DatabaseSettings
from tests.backends_mariadb import SCRIPTS_DIR, MariaDbServer, PreparedMariaDb
from tests.certificates import make_certificate
from tests.open_files import open_files
from tests.waiting import until


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of this host, and of another that vouches for itself too."""
    folder = tmp_path_factory.mktemp("tls")
    return {host: make_certificate(folder, host) for host in ("127.0.0.1", "192.0.2.1")}


@pytest.fixture(scope="module")
def settings(
    prepared_mariadb: PreparedMariaDb, certificates: dict[str, Path]
) -> Iterator[DatabaseSettings]:
    """Of a server whose user ``guarded`` must come encrypted."""
    server = MariaDbServer(copy_of=prepared_mariadb.server)
    mine = certificates["127.0.0.1"]
    try:
        server.start(f"--ssl-cert={mine}", f"--ssl-key={mine.with_suffix('.key')}")
        server.sql("CREATE USER guarded@'%' IDENTIFIED BY 'geheim' REQUIRE SSL")
        server.sql("GRANT ALL ON *.* TO guarded@'%'")
        own = {"port": server.port, "user": "guarded", "password": "geheim"}
        yield DatabaseSettings.model_validate(prepared_mariadb.settings.model_dump() | own)
    finally:
        server.remove()


async def ping(settings: DatabaseSettings, **changes: object) -> None:
    changed = DatabaseSettings.model_validate(settings.model_dump() | changes)
    databases = Databases(changed, data_dir=Path("/nonexistent"), scripts_dir=SCRIPTS_DIR)
    for database in (
        databases.open_global(),
        databases.open_shard(ShardAddress.of(settings.shards[0])),
    ):
        try:
            await database.ping()
        finally:
            await database.close()


async def test_with_the_servers_certificate_the_connection_is_encrypted(
    settings: DatabaseSettings, certificates: dict[str, Path]
) -> None:
    await ping(settings, tls=True, tls_ca_file=str(certificates["127.0.0.1"]))


async def test_a_pool_is_closed_when_its_servers_goodbye_has_come(
    settings: DatabaseSettings, certificates: dict[str, Path]
) -> None:
    before = open_files()
    await ping(settings, tls=True, tls_ca_file=str(certificates["127.0.0.1"]))
    assert open_files() == before


async def test_without_encryption_a_guarded_user_does_not_get_in(
    settings: DatabaseSettings,
) -> None:
    with pytest.raises(ServiceUnavailable, match="1045"):
        await ping(settings)


@pytest.mark.parametrize(
    "trusted", [None, "192.0.2.1"], ids=["the system's certificates", "another's certificate"]
)
async def test_a_server_that_nobody_trusted_vouches_for_is_not_spoken_to(
    settings: DatabaseSettings, certificates: dict[str, Path], trusted: str | None
) -> None:
    before = open_files()
    for _ in range(5):
        with pytest.raises(ServiceUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await ping(settings, tls=True, tls_ca_file=trusted and str(certificates[trusted]))
    await until(lambda: open_files() == before)


async def test_a_certificate_of_another_name_is_refused(
    settings: DatabaseSettings, certificates: dict[str, Path]
) -> None:
    with pytest.raises(ServiceUnavailable, match="certificate"):
        await ping(settings, tls=True, tls_ca_file=str(certificates["127.0.0.1"]), host="localhost")


def test_a_missing_certificate_file_is_said_at_start(settings: DatabaseSettings) -> None:
    changed = settings.model_copy(update={"tls": True, "tls_ca_file": Path("/no/such.pem")})
    with pytest.raises(StartError, match=r"tls_ca_file /no/such\.pem"):
        Databases(changed, data_dir=Path("/nonexistent"), scripts_dir=SCRIPTS_DIR)


def test_what_mysql_8s_own_login_needs_is_installed() -> None:
    # caching_sha2_password without TLS encrypts the password with the server's RSA key; no MySQL 8
    # is at hand to ask.
    assert pymysql._auth._have_cryptography
