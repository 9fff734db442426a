"""`ensue run` on PostgreSQL: with a password that nobody gets to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.bakery import publish, says
from tests.cli.conftest import Ensue, Start
from tests.servers.postgresql import PostgresAddress, new_role
from tests.store.postgresql_logs import sql

SECRET = "geheim-wort"


@pytest.fixture
def url(postgresql: PostgresAddress, monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    url = new_role(postgresql.url(), password=SECRET)
    monkeypatch.setenv("ENSUE_URL", url)
    return url


def test_an_application_runs_fails_and_stops_without_a_word_of_its_password(
    url: str, running: Start, bakery: Path, ensue_: Ensue
) -> None:
    process = running("app:app", "--workers", "2")
    said = says(process, "sell  ←")
    publish(bakery, "burnt")
    said += says(process, "is given up")
    seen = Path(f"/proc/{process.pid}/cmdline").read_text() + str(
        sql(url, "SELECT application_name, query FROM pg_stat_activity")
    )
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    looked = [ensue_(*command, ENSUE_URL=url) for command in (["log"], ["consumers"], ["dead-letters", "show", "1"])]
    assert [result.exit_code for result in looked] == [0, 0, 0]
    text = "".join((*said, seen, out, err, *(result.output for result in looked)))
    assert "postgresql://" in text and SECRET not in text


def test_a_wrong_password_ends_it_with_one_line(url: str, bakery: Path, ensue_: Ensue) -> None:
    wrong = url.replace(SECRET, "geheim+wort")
    result = ensue_("run", "app:app", ENSUE_URL=wrong)
    assert result.exit_code == 3
    assert "the server refused the role or its password" in result.stderr
    assert "geheim" not in result.output
