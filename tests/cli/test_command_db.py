"""`ensue db` as a user meets it, on both databases."""

from __future__ import annotations

import json
from pathlib import Path

import apsw

from tests.cli.conftest import Ensue

OLD = (Path(__file__).parents[1] / "store" / "schema_1.sql").read_text()


def old_log(folder: Path) -> str:
    connection = apsw.Connection(str(folder / "old.db"))
    connection.execute(OLD)
    connection.close()
    return "sqlite:///old.db"


def test_an_empty_database_gets_the_tables_of_a_log_and_is_then_up_to_date(
    postgresql_url: str, folder: Path, ensue_: Ensue
) -> None:
    result = ensue_("db", "upgrade", "--url", postgresql_url)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "took step 1: the tables of a log\n", "")
    result = ensue_("db", "upgrade", "--url", postgresql_url)
    assert result.exit_code == 0 and result.stdout.startswith("up to date: postgresql://")
    assert result.stdout.endswith("is of schema 1\n")
    assert ensue_("log", "--url", postgresql_url).exit_code == 0


def test_a_dry_run_shows_the_sql_and_does_nothing(postgresql_url: str, folder: Path, ensue_: Ensue) -> None:
    for _ in range(2):
        result = ensue_("db", "upgrade", "--dry-run", "--url", postgresql_url)
        assert result.exit_code == 0
        assert result.stdout.startswith("would take step 1: the tables of a log\nCREATE TABLE ensue_log")
    assert ensue_("log", "--url", postgresql_url).exit_code == 3


def test_as_json_it_is_one_object(postgresql_url: str, folder: Path, ensue_: Ensue) -> None:
    found = json.loads(ensue_("db", "upgrade", "--json", "--dry-run", "--url", postgresql_url).stdout)
    assert found.keys() == {"url", "found", "dry_run", "steps"}
    assert (found["found"], found["dry_run"]) == (0, True)
    assert [(step["number"], step["title"]) for step in found["steps"]] == [(1, "the tables of a log")]


def test_a_file_of_a_former_schema_is_brought_up_to_date(folder: Path, ensue_: Ensue) -> None:
    url = old_log(folder)
    before = (folder / "old.db").read_bytes()
    result = ensue_("db", "upgrade", "--dry-run", "--url", url)
    assert result.stdout.startswith("would take step 2: of schema 1 to 2\nALTER TABLE ensue_node")
    assert (folder / "old.db").read_bytes() == before
    assert ensue_("db", "upgrade", "--url", url).stdout == "took step 2: of schema 1 to 2\n"
    assert ensue_("db", "upgrade", "--url", url).stdout == "up to date: sqlite:///old.db is of schema 2\n"


def test_a_file_that_is_not_there_is_not_made(folder: Path, ensue_: Ensue) -> None:
    result = ensue_("db", "upgrade", "--url", "sqlite:///no.db")
    assert result.exit_code == 3 and "there is no log at sqlite:///no.db" in result.stderr
    assert list(folder.iterdir()) == []


def test_what_is_not_a_log_is_left_alone(folder: Path, ensue_: Ensue) -> None:
    (folder / "text.db").write_text("not a database, but long enough to be looked at as if it were one" * 20)
    for options in ([], ["--dry-run"]):
        result = ensue_("db", "upgrade", *options, "--url", "sqlite:///text.db")
        assert result.exit_code == 3 and result.stderr.startswith("ensue: ")
    assert (folder / "text.db").read_text().startswith("not a database")


def test_a_log_in_memory_has_nothing_to_be_brought_up_to_date(folder: Path, ensue_: Ensue) -> None:
    assert ensue_("db", "upgrade", "--url", "memory:").exit_code == 2
