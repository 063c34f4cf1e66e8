"""The files of db_scripts: both dialects say the same, and MySQL's keep to what MySQL 8 and MariaDB
both speak."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from base_server.service.core.errors import StartError
from base_server.service.db.scripts import DatabaseScript, Kind, load_scripts
from tests.backends_mariadb import SCRIPTS_DIR

MYSQL_FILES = sorted(SCRIPTS_DIR.glob("mysql/*/*/*.sql"))
HEADERS = ("params", "returns")


def procedures(dialect: str, kind: Kind) -> dict[str, DatabaseScript]:
    return load_scripts(SCRIPTS_DIR, dialect, kind).procedures


def without_comments(path: Path) -> str:
    return re.sub(r"--.*", "", path.read_text())


def file_id(path: Path) -> str:
    return f"{path.parts[-3]} {path.stem}"


@pytest.mark.parametrize("kind", ["global", "shard"])
def test_both_dialects_have_the_same_procedures_params_and_columns(kind: Kind) -> None:
    mysql, sqlite = procedures("mysql", kind), procedures("sqlite", kind)
    assert set(mysql) == set(sqlite)
    for name, script in mysql.items():
        for header in HEADERS:
            assert script.header(header) == sqlite[name].header(header), f"{name}: {header}"
        assert script.text.splitlines()[0].startswith("-- purpose: ")
        assert script.text.splitlines()[0] == sqlite[name].text.splitlines()[0]


@pytest.mark.parametrize("kind", ["global", "shard"])
def test_both_dialects_have_the_same_tables_and_columns(kind: Kind) -> None:
    def tables(dialect: str) -> dict[str, list[str]]:
        scripts = [
            s for s in load_scripts(SCRIPTS_DIR, dialect, kind).scripts if not s.is_procedure
        ]
        return {s.name: re.findall(r"^    ([a-z_]+) [A-Z]", s.text, re.MULTILINE) for s in scripts}

    assert tables("mysql") == tables("sqlite")


@pytest.mark.parametrize(
    "path", [p for p in MYSQL_FILES if p.parent.name == "procedures"], ids=file_id
)
def test_a_mysql_header_says_what_the_procedure_takes(path: Path) -> None:
    kind: Kind = "global" if path.parts[-3] == "global" else "shard"
    header = procedures("mysql", kind)[path.stem].header("params")
    text = without_comments(path)
    assert re.search(rf"^CREATE PROCEDURE {path.stem}\(", text, re.MULTILINE)
    assert tuple(re.findall(r"^    IN p_(\w+) ", text, re.MULTILINE)) == header
    body = text.split("SQL DATA", 1)[1]
    assert {name for name in header if re.search(rf"\bp_{name}\b", body)} == set(header)


@pytest.mark.parametrize("path", sorted(SCRIPTS_DIR.glob("sqlite/*/procedures/*.sql")), ids=file_id)
def test_a_sqlite_header_says_what_the_procedure_takes(path: Path) -> None:
    kind: Kind = "global" if path.parts[-3] == "global" else "shard"
    header = procedures("sqlite", kind)[path.stem].header("params")
    assert set(re.findall(r":([a-z_]+)", without_comments(path))) == set(header)


# tech-notes: what one of MySQL 8 and MariaDB 10.11 does not understand, or understands otherwise.
NOT_PORTABLE = {
    "a collation of one server": r"utf8mb4_0900|utf8mb4_uca1400",
    "a row alias": r"\bAS new\b",
    "an arrow into JSON": r"->",
    "MEMBER OF": r"\bMEMBER OF\b",
    "an ordered JSON_ARRAYAGG": r"JSON_ARRAYAGG\([^)]*ORDER BY",
    "UUID functions and types": r"UUID_TO_BIN|BIN_TO_UUID|\bUUID\b",
    "FOR SHARE": r"\bFOR SHARE\b",
    "a functional index": r"KEY \w+ \(\(",
    "LATERAL": r"\bLATERAL\b",
    "VALUES ROW": r"\bVALUES ROW\b",
    "ADD COLUMN IF NOT EXISTS": r"ADD COLUMN IF NOT EXISTS",
    "CREATE OR REPLACE": r"CREATE OR REPLACE",
    "CREATE PROCEDURE IF NOT EXISTS": r"CREATE PROCEDURE IF NOT EXISTS",
    "RETURNING": r"\bRETURNING\b",
    "SEQUENCE": r"\bSEQUENCE\b",
    "REGEXP_LIKE": r"REGEXP_LIKE",
    "isolation variables": r"@@tx_isolation|@@transaction_isolation",
    "DELIMITER, which is a client's word": r"\bDELIMITER\b",
    "an ISO time": r"\d{4}-\d\d-\d\dT",
}


@pytest.mark.parametrize("path", MYSQL_FILES, ids=file_id)
def test_mysql_files_are_portable(path: Path) -> None:
    text = without_comments(path)
    found = [
        what for what, pattern in NOT_PORTABLE.items() if re.search(pattern, text, re.IGNORECASE)
    ]
    assert found == []


@pytest.mark.parametrize("path", MYSQL_FILES, ids=file_id)
def test_mysql_files_name_their_character_sets(path: Path) -> None:
    """Otherwise text takes that of the database as it was when the procedure was made."""
    text = without_comments(path)
    for declaration in re.findall(
        r"^.*\b(?:(?:VAR)?CHAR\(|(?:MEDIUM|LONG)?TEXT\b).*$", text, re.MULTILINE
    ):
        if path.parent.name == "tables":
            assert "COLLATE utf8mb4_bin" in text.rsplit(")", 1)[1]
        else:
            assert "CHARACTER SET" in declaration, declaration
            assert "COLLATE" in declaration, declaration


@pytest.mark.parametrize("path", MYSQL_FILES, ids=file_id)
def test_mysql_json_tables_refuse_what_does_not_fit(path: Path) -> None:
    text = without_comments(path)
    for column in re.findall(r"^.* PATH '.*$", text, re.MULTILINE):
        assert "ERROR ON ERROR" in column, column
        size = re.search(r"VARCHAR\((\d+)\)", column)
        assert size is None or int(size[1]) > 200, f"no wider than the table's: {column}"
    if "p_rows" in text:
        assert "NOT JSON_VALID(p_rows)" in text


@pytest.mark.parametrize(
    "path", [p for p in MYSQL_FILES if p.parent.name == "procedures"], ids=file_id
)
def test_mysql_transactions_are_rolled_back_on_errors(path: Path) -> None:
    text = without_comments(path)
    if "START TRANSACTION" in text:
        assert re.search(
            r"DECLARE EXIT HANDLER FOR SQLEXCEPTION\s+BEGIN\s+ROLLBACK;\s+RESIGNAL;", text
        )
        assert "COMMIT;" in text
        assert "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;" in text


@pytest.mark.parametrize("path", [p for p in MYSQL_FILES if p.parent.name == "tables"], ids=file_id)
def test_a_mysql_table_script_may_be_repeated(path: Path) -> None:
    text = without_comments(path)
    assert text.strip().startswith("CREATE TABLE IF NOT EXISTS ")
    assert ";" not in text, "one statement a file"


def test_a_script_folder_must_be_whole(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no database scripts"):
        load_scripts(tmp_path, "mysql", "global")
    (tmp_path / "mysql/global/tables").mkdir(parents=True)
    (tmp_path / "mysql/global/tables/rooms.sql").write_text("")
    with pytest.raises(StartError, match="NNNN_name"):
        load_scripts(tmp_path, "mysql", "global")


@pytest.mark.parametrize("text", [None, "", "two\n"])
def test_script_folder_without_its_number_is_refused(text: str | None, tmp_path: Path) -> None:
    (tmp_path / "mysql/global/tables").mkdir(parents=True)
    if text is not None:
        (tmp_path / "VERSION").write_text(text)
    with pytest.raises(StartError, match="VERSION does not begin with a number"):
        load_scripts(tmp_path, "mysql", "global")


def test_version_changes_with_the_scripts() -> None:
    """cases/faults.md U7: `db apply` knows by the number which of two versions of the server is the
    older."""
    digest = hashlib.sha256()
    for path in sorted(SCRIPTS_DIR.glob("*/*/*/*.sql")):
        digest.update(
            f"{path.relative_to(SCRIPTS_DIR).as_posix()}\0{path.read_text(encoding='utf-8')}\0".encode()
        )
    number, known = (SCRIPTS_DIR / "VERSION").read_text().split()
    assert known == digest.hexdigest(), (
        "a script was changed, added or removed, so the scripts need the next number: put this line into"
        f" db_scripts/VERSION:\n{int(number) + 1} {digest.hexdigest()}\n"
        "(after a merge: one more than the higher number of the two sides)"
    )
