"""`ensue archive`: from the command line into a file and back, killed at any moment."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from ensue.cli.loading import load_app
from ensue.store.archives import open_archive
from tests.cli.conftest import Ensue

CODE = """
from ensue import App, Event, days

class Deposited(Event, key="account_id"):
    account_id: str
    amount: int

class AccountClosed(Event, key="account_id", closes=True):
    account_id: str

class Ticked(Event, retention=days(30)):
    number: int

app = App("vault")

@app.on(start="beginning", pure=True)
def hear(event: Ticked) -> None: ...
"""
PLAIN = """
from ensue import App, Event
from vault import Deposited
app = App("vault")

@app.on(start="beginning", pure=True, name="plain")
def hear(event: Deposited) -> None: ...
"""


@pytest.fixture
def vault(folder: Path) -> Path:
    """The application and its log, with 40 accounts of 25 events each, every other one closed."""
    sys.dont_write_bytecode = True
    Path("vault.py").write_text(CODE)
    Path("plain.py").write_text(PLAIN)

    async def fill() -> None:
        app = load_app("vault:app")
        here = vars(sys.modules["vault"])
        async with app:
            for number in range(40):
                name = f"a{number}"
                events = [here["Deposited"](account_id=name, amount=amount) for amount in range(24)]
                last = here["AccountClosed"](account_id=name) if number % 2 else events[0]
                await app.publish(*events, last)
            await (await app.publish(*(here["Ticked"](number=number) for number in range(10)))).wait()

    asyncio.run(fill())
    return folder


def log(ensue_: Ensue, *arguments: str) -> list[dict[str, Any]]:
    told = ensue_("log", "--app", "vault:app", "--json", *arguments)
    assert told.exit_code == 0, told.output
    return [json.loads(line) for line in told.output.splitlines()]


def without_fields(facts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in fact.items() if name not in ("event", "unreadable")} for fact in facts]


@pytest.mark.usefixtures("vault")
class TestWriting:
    @pytest.mark.parametrize("name", ["old.jsonl.gz", "old.parquet"])
    def test_payloads_of_closed_streams_move_into_the_file_and_are_shown_from_there(
        self, ensue_: Ensue, name: str
    ) -> None:
        before = log(ensue_)
        wrote = ensue_("archive", "write", name, "--app", "vault:app")
        assert (wrote.exit_code, wrote.output) == (0, f"archived: 500 payloads of 20 closed streams in {name}\n")
        after = log(ensue_)
        assert without_fields(after) == without_fields(before)
        gone = [fact for fact in after if fact["event"] is None]
        assert len(gone) == 500
        assert f"is in the archive {name}" in gone[0]["unreadable"]
        assert log(ensue_, "--archive", name) == before
        assert ensue_("verify", "--app", "vault:app").exit_code == 0
        again = ensue_("archive", "write", name, "--app", "vault:app")
        assert again.output == f"whole: {name} was there, and all its 500 events are tombstones now\n"
        nothing = ensue_("archive", "write", "more.jsonl.gz", "--app", "vault:app", "--json")
        facts = {"file": "more.jsonl.gz", "events": 0, "streams": 0, "waiting": 0, "resumed": False}
        assert json.loads(nothing.output) == facts

    def test_a_copy_of_the_log_has_the_tombstones_and_reads_the_same_archive(self, ensue_: Ensue) -> None:
        before = log(ensue_)
        ensue_("archive", "write", "old.jsonl.gz", "--app", "vault:app")
        assert ensue_("copy", "sqlite:///vault.db", "sqlite:///copy.db").exit_code == 0
        assert log(ensue_, "--url", "sqlite:///copy.db", "--archive", "old.jsonl.gz") == before

    def test_only_keys_and_times_that_were_asked_for(self, ensue_: Ensue) -> None:
        early = ensue_("archive", "write", "x.jsonl.gz", "--app", "vault:app", "--before", "2020-01-01")
        assert early.output == "nothing to archive: no stream is closed whose payloads are in the log\n"
        one = ensue_(
            "archive", "write", "x.jsonl.gz", "--app", "vault:app", "--key", "account_id=a3", "--key", "account_id=a4"
        )
        assert one.output == "archived: 25 payloads of 1 closed stream in x.jsonl.gz\n"

    def test_what_a_consumer_has_yet_to_handle_is_left(self, ensue_: Ensue) -> None:
        async def know() -> None:
            async with load_app("plain:app").connected():
                pass

        asyncio.run(know())
        told = ensue_("archive", "write", "old.jsonl.gz", "--app", "vault:app")
        assert "20 closed streams left: a consumer has yet to handle events there" in told.output
        assert not Path("old.jsonl.gz").exists()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("x.gz", "--app", "vault:app", "--before", "soon"), "--before soon is no date; write 2025-01-01"),
            (("x.gz", "--app", "vault:app", "--key", "a3"), "--key a3 is no key; write NAME=VALUE"),
            (("x.gz",), "say which application: --app MODULE:APP"),
        ],
    )
    def test_wrong_usage_is_told(self, ensue_: Ensue, arguments: tuple[str, ...], words: str) -> None:
        told = ensue_("archive", "write", *arguments)
        assert told.exit_code != 0
        assert words in f"{told.output} {told.exception}"

    def test_killed_at_any_moment_it_goes_on_and_nothing_is_lost(self, ensue_: Ensue) -> None:
        before = log(ensue_)
        delay = 0.0
        for _ in range(12):
            process = subprocess.Popen(
                [sys.executable, "-m", "ensue.cli", "archive", "write", "old.jsonl.gz", "--app", "vault:app"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            try:
                process.communicate(timeout=0.2 + delay)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
            delay += 0.05
            archives = ["--archive", "old.jsonl.gz"] if Path("old.jsonl.gz").exists() else []
            assert log(ensue_, *archives) == before
        assert ensue_("archive", "write", "old.jsonl.gz", "--app", "vault:app").exit_code == 0
        assert open_archive("old.jsonl.gz").events == 500
        assert log(ensue_, "--archive", "old.jsonl.gz") == before
        assert ensue_("verify", "--app", "vault:app").exit_code == 0


@pytest.mark.usefixtures("vault")
class TestDropping:
    def test_without_yes_it_only_says_what_it_would_drop(self, ensue_: Ensue) -> None:
        connection = apsw.Connection("vault.db")
        connection.execute("UPDATE ensue_event SET recorded_at = 1 + position")
        connection.close()
        before = log(ensue_)
        told = ensue_("archive", "drop", "--app", "vault:app")
        assert told.exit_code == 0
        assert told.output.startswith("would drop 10 payloads of Ticked from before ")
        assert told.output.endswith("nothing was changed; say --yes to drop them for good\n")
        assert log(ensue_) == before
        done = ensue_("archive", "drop", "--app", "vault:app", "--yes", "--json")
        facts = json.loads(done.output)
        assert (facts["dropped"], facts["types"][0]["events"], facts["types"][0]["waiting"]) == (True, 10, 0)
        dropped = [fact for fact in log(ensue_) if fact["event"] is None]
        assert [fact["type"] for fact in dropped] == ["Ticked"] * 10
        assert "was dropped, as its type's retention says" in dropped[0]["unreadable"]
        assert ensue_("verify", "--app", "vault:app").exit_code == 0

    def test_what_is_young_stays(self, ensue_: Ensue) -> None:
        told = ensue_("archive", "drop", "--app", "vault:app", "--yes")
        assert told.output.startswith("dropped 0 payloads of Ticked from before ")

    def test_only_types_that_say_so(self, ensue_: Ensue) -> None:
        told = ensue_("archive", "drop", "--app", "vault:app", "--type", "Deposited")
        assert told.exit_code == 2
        assert "Deposited does not say for how long it is wanted" in told.output
