"""Which log is meant, what is said when that is not clear, and that looking changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cli.conftest import Ensue, Sql

LOOKING = (
    ("log",),
    ("trace", "1"),
    ("consumers",),
    ("dead-letters",),
    ("dead-letters", "show", "1"),
    ("verify",),
)
CHANGING = (
    ("consumers", "pause", "ship"),
    ("dead-letters", "retry", "1"),
    ("dead-letters", "discard", "1", "--note", "n"),
    ("dead-letters", "edit", "1", "--set", "a=1"),
)


def test_the_one_log_in_the_folder_is_meant_whatever_else_is_there(log_file: Path, ensue_: Ensue) -> None:
    (log_file.parent / "notes.txt").write_text("no database")
    (log_file.parent / "empty.db").touch()
    assert ensue_("verify").exit_code == 0


def test_without_a_log_it_is_said_how_to_name_one(folder: Path, ensue_: Ensue) -> None:
    result = ensue_("log")
    assert result.exit_code == 2
    assert "there is no log in" in result.stderr
    assert "--url sqlite:///FILE" in result.stderr


def test_several_logs_are_listed(log_file: Path, ensue_: Ensue) -> None:
    shutil.copy(log_file, log_file.parent / "other log.db")
    result = ensue_("log")
    assert result.exit_code == 2
    assert "there are 2 logs in" in result.stderr
    assert "--url sqlite:///other%20log.db or --url sqlite:///shop.db" in result.stderr


def test_a_listed_url_can_be_used_as_it_is(log_file: Path, ensue_: Ensue) -> None:
    log_file.rename(log_file.parent / "other log.db")
    assert ensue_("verify", "--url", "sqlite:///other%20log.db").exit_code == 0


def test_the_url_goes_before_the_environment_and_that_before_the_folder(log_file: Path, ensue_: Ensue) -> None:
    shutil.copy(log_file, log_file.parent / "other.db")
    assert ensue_("verify", "--url", "sqlite:///other.db", ENSUE_URL="sqlite:///missing.db").exit_code == 0
    assert ensue_("verify", ENSUE_URL="sqlite:///other.db").exit_code == 0
    assert ensue_("verify", ENSUE_URL="sqlite:///missing.db").exit_code == 3


def test_the_environment_goes_before_the_application(log_file: Path, ensue_: Ensue) -> None:
    log_file.rename(log_file.parent / "moved.db")
    assert ensue_("verify", "--app", "tests.cli.shop:app").exit_code == 3
    assert ensue_("verify", "--app", "tests.cli.shop:app", ENSUE_URL="sqlite:///moved.db").exit_code == 0


def test_the_application_of_pyproject_toml_names_its_log(log_file: Path, ensue_: Ensue) -> None:
    shutil.copy(log_file, log_file.parent / "other.db")
    (log_file.parent / "pyproject.toml").write_text('[tool.ensue]\napp = "tests.cli.shop:app"\n')
    assert ensue_("verify").exit_code == 0


@pytest.mark.parametrize("place", ["before", "behind"])
def test_the_options_stand_before_or_behind_a_subcommand(log_file: Path, ensue_: Ensue, place: str) -> None:
    log_file.rename(log_file.parent / "moved")
    url = ("--url", "sqlite:///moved")
    words = (*url, "show", "1") if place == "before" else ("show", "1", *url)
    assert ensue_("dead-letters", *words).exit_code == 0


@pytest.mark.parametrize("words", LOOKING + CHANGING, ids=" ".join)
def test_a_mistyped_name_is_an_error_and_leaves_no_file_behind(
    folder: Path, ensue_: Ensue, words: tuple[str, ...]
) -> None:
    result = ensue_(*words, "--url", "sqlite:///shpo.db")
    assert result.exit_code == 3
    assert result.stderr == "ensue: there is no log at sqlite:///shpo.db; nothing was created. Is the name right?\n"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("words", LOOKING, ids=" ".join)
def test_looking_leaves_the_file_as_it_was(log_file: Path, ensue_: Ensue, words: tuple[str, ...]) -> None:
    before = (log_file.read_bytes(), log_file.stat().st_mtime_ns)
    assert ensue_(*words).exit_code == 0
    assert (log_file.read_bytes(), log_file.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("shop.db", 2, "sqlite:///"),
        ("mysql://u:secret@host/db", 2, "mysql://u:…@host/db"),
        ("sqlite:///notes.txt", 3, "not an Ensue log"),
        ("sqlite:///empty.db", 3, "there is no log at"),
        ("memory:", 3, "there is no log at memory:"),
    ],
)
def test_a_url_that_leads_to_no_log_is_explained(folder: Path, ensue_: Ensue, url: str, code: int, said: str) -> None:
    (folder / "notes.txt").write_text("not a database, but long enough to be looked at" * 100)
    (folder / "empty.db").touch()
    result = ensue_("log", "--url", url)
    assert result.exit_code == code
    assert said in result.stderr
    assert "secret" not in result.stderr
    assert (folder / "empty.db").stat().st_size == 0


def test_a_log_that_may_only_be_read_can_be_looked_at(filled_log: Path) -> None:
    """In a process without the right to write, to the file or to its folder. Root gives its rights up for that."""
    program = (
        "import os, sys\n"
        "from ensue.cli import program\n"
        "from ensue.cli import verify\n"
        "from ensue.store import sqlite\n"
        "if os.getuid() == 0:\n"
        "    os.setgid(65534); os.setuid(65534)\n"
        "program.ensue.main(sys.argv[1:])\n"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Path(shutil.copy(filled_log, folder / "shop.db")).chmod(0o444)
        folder.chmod(0o555)
        try:
            looked = subprocess.run(
                [sys.executable, "-c", program, "verify"], capture_output=True, text=True, check=False, cwd=folder
            )
            left = os.listdir(folder)
        finally:
            folder.chmod(0o755)
    assert (looked.returncode, looked.stderr) == (0, "")
    assert looked.stdout.startswith("whole: 15 events")
    assert left == ["shop.db"]


def test_a_pyproject_that_is_no_toml_is_named(folder: Path, ensue_: Ensue) -> None:
    (folder / "pyproject.toml").write_text("[tool")
    result = ensue_("log")
    assert result.exit_code == 2
    assert "pyproject.toml cannot be read" in result.stderr


@pytest.mark.parametrize("words", LOOKING, ids=" ".join)
def test_a_damaged_file_is_one_sentence_whatever_looks_at_it(
    log_file: Path, ensue_: Ensue, words: tuple[str, ...]
) -> None:
    log_file.write_bytes(log_file.read_bytes()[:20_000])
    result = ensue_(*words)
    assert result.exit_code == 3
    assert "the file is damaged" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_time_that_is_none_hides_no_event(log_file: Path, sql: Sql, ensue_: Ensue) -> None:
    sql("UPDATE ensue_event SET recorded_at = ? WHERE position = 2", 2**62)
    assert len(ensue_("log").stdout.splitlines()) == 15
    assert ensue_("trace", 2).exit_code == 0
