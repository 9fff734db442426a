"""`ensue forget` forgets a subject, and the other commands show what is personal until then, and afterwards that it is forgotten."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ensue

EMAIL = "ada.lovelace@example.com"
APP = """
from ensue import App, Event, Personal, Retry

class CustomerJoined(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[str]
    plan: str = "free"

app = App("people", retry=Retry.never)

@app.on
async def welcome(joined: CustomerJoined) -> None:
    if joined.plan == "wrong":
        raise ValueError(f"no such plan for {joined.email}")
"""


@pytest.fixture
def people(folder: Path) -> Path:
    """An application with a log in which two people joined, one of them in vain."""
    (folder / "people.py").write_text(APP)
    sys.path.insert(0, str(folder))
    module: Any = importlib.import_module("people")

    async def run() -> None:
        async with module.app as app:
            await app.publish(module.CustomerJoined(customer_id="c1", email=EMAIL, plan="wrong"))
            await app.publish(module.CustomerJoined(customer_id="c2", email="grace@example.com"))
            letters = [letter async for letter in app.dead_letters.list()]
            while not letters:
                await asyncio.sleep(0)
                letters = [letter async for letter in app.dead_letters.list()]

    asyncio.run(run())
    return folder


def shown(ensue_: Ensue, *arguments: str) -> str:
    result = ensue_(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


WAYS = [
    ("log",),
    ("log", "--json"),
    ("log", "--app", "people:app"),
    ("trace", "1", "--json"),
    ("dead-letters", "--json"),
    ("dead-letters", "show", "1"),
    ("dead-letters", "show", "1", "--json"),
]


def test_what_is_personal_is_shown_until_it_is_forgotten_and_nowhere_afterwards(people: Path, ensue_: Ensue) -> None:
    for way in WAYS:
        assert EMAIL in shown(ensue_, *way), way
    assert "forgot customer_id=c1: its key is destroyed (position 3)" in shown(
        ensue_, "forget", "customer_id=c1", "--yes"
    )
    for way in WAYS:
        assert EMAIL not in shown(ensue_, *way), way
    assert "grace@example.com" in shown(ensue_, "log")
    assert '"type":"forgotten"' in shown(ensue_, "log")
    assert "SubjectForgotten" in shown(ensue_, "log")
    assert [file.name for file in people.iterdir() if file.is_file() and EMAIL.encode() in file.read_bytes()] == []
    assert "was forgotten before (position 3)" in shown(ensue_, "forget", "customer_id=c1", "--yes")
    assert ensue_("verify").exit_code == 0


def test_it_asks_before_it_forgets(people: Path, ensue_: Ensue) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "ensue.cli", "forget", "customer_id=c1"],
        input="n\n", capture_output=True, text=True, check=False, cwd=people,
    )  # fmt: skip
    assert "Forget customer_id=c1, for ever?" in asked.stderr
    assert asked.returncode == 130
    assert EMAIL in shown(ensue_, "log")


def test_nobody_is_forgotten_by_a_wrong_name(people: Path, ensue_: Ensue) -> None:
    nobody = ensue_("forget", "customer_id=c9", "--yes")
    assert nobody.exit_code == 1
    assert "nothing personal was ever stored about customer_id=c9" in nobody.output
    for wrong in (
        ("forget", "--yes"),
        ("forget", "c1", "--yes"),
        ("forget", "customer_id=", "--yes"),
        ("forget", "customer_id=c1", "--lost", "--yes"),
    ):
        assert ensue_(*wrong).exit_code != 0, wrong
    assert EMAIL in shown(ensue_, "log")


def test_without_its_keys_a_log_shows_nothing_personal_and_says_so(people: Path, ensue_: Ensue) -> None:
    (people / "people.keys").rename(people / "away.keys")
    found = [json.loads(line) for line in shown(ensue_, "log", "--json").splitlines()]
    assert EMAIL not in str(found)
    assert "there is no key store" in found[0]["unreadable"]
    assert found[0]["event"]["email"] == {"$personal": "…"}
    assert not (people / "people.keys").exists()
    assert EMAIL in shown(ensue_, "log", "--keys", "sqlite:///away.keys")


def test_who_has_lost_the_keys_can_say_so_and_go_on(people: Path, ensue_: Ensue) -> None:
    (people / "people.keys").unlink()
    assert "forgot 2 subjects whose keys are lost" in shown(ensue_, "forget", "--lost", "--yes")
    assert shown(ensue_, "log").count('"type":"forgotten"') == 2
    module: Any = importlib.import_module("people")

    async def run() -> list[Any]:
        async with module.app as app:
            return [one.event.email async for one in app.log.read(module.CustomerJoined)]

    assert [str(email) for email in asyncio.run(run())] == ["forgotten", "forgotten"]


def test_an_edit_of_what_is_personal_is_not_stored_in_plain(people: Path, ensue_: Ensue) -> None:
    refused = ensue_("dead-letters", "edit", "1", "--set", 'email="new@example.com"')
    assert refused.exit_code != 0
    shown(
        ensue_,
        "dead-letters",
        "edit",
        "1",
        "--set",
        "email=new@example.com",
        "--set",
        "plan=paid",
        "--app",
        "people:app",
    )
    files = [file for file in people.iterdir() if file.is_file() and b"new@example.com" in file.read_bytes()]
    assert files == []
    module: Any = importlib.import_module("people")

    async def run() -> None:
        async with module.app as app:
            standing = await app.open_store().standing(1)
            while standing.lanes:
                await asyncio.sleep(0)
                standing = await app.open_store().standing(1)

    asyncio.run(run())
    assert json.loads(shown(ensue_, "dead-letters", "--json"))["dead_letters"] == []
