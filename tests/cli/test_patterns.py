"""`ensue patterns` shows how far patterns are, what waits, and why something matched or did not."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ensue.cli.loading import load_app
from tests.cli.conftest import Ensue

WATCHED = """
from decimal import Decimal

from ensue import App, Event, Personal, minutes
from ensue.patterns import Pattern, TimedOut, Window, count, one, several


class Payment(Event, key="card", subject="card"):
    card: str
    amount: Decimal
    payer: Personal[str] = "nobody"


class Suspected(Event, key="card"):
    card: str


class Probed(Pattern, within=minutes(10)):
    probe = one(Payment, lambda p: p.amount < 2)
    large = several(Payment, lambda p: p.amount > 200, times=2)


class Twice(Pattern, within=minutes(10)):
    first = one(Payment)
    second = one(Payment, lambda p: p.payer != "somebody")


fraud = App("fraud", url="sqlite:///fraud.db")


@fraud.on
def suspect(match: Probed) -> Suspected:
    return Suspected(card=match.key)


@fraud.on
def stuck(out: TimedOut[Twice]) -> None: ...


class PerMinute(Window, size=minutes(1)):
    many = count(Payment)


counting = App("counting")


@counting.on
def counted(window: PerMinute) -> None: ...
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with one match of c1 (events 1 to 3), a probe of c2 that waits, and a payment of c3 that is none. Closed."""
    folder = tmp_path_factory.mktemp("fraud")
    (folder / "watched.py").write_text(WATCHED)
    (folder / "pyproject.toml").write_text('[tool.ensue]\napp = "watched:fraud"\n')

    async def fill() -> None:
        app = load_app("watched:fraud")
        payment = sys.modules["watched"].Payment
        async with app:
            for card, amount in (("c1", 1), ("c1", 300), ("c1", 400), ("c2", 1), ("c2", 150), ("c3", 50)):
                receipt = await app.publish(payment(card=card, amount=amount, payer="mrs secret"))
            await receipt.wait()

    path = list(sys.path)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        asyncio.run(fill())
    del sys.modules["watched"]
    sys.path[:] = path
    return folder


@pytest.fixture
def fraud(filled: Path, folder: Path) -> Path:
    """A copy of it, in the current folder."""
    shutil.copytree(filled, folder, dirs_exist_ok=True)
    return folder


def told(ensue_: Ensue, *arguments: object) -> dict[str, Any]:
    result = ensue_("patterns", *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_patterns_are_listed_with_what_they_have_come_to(fraud: Path, ensue_: Ensue) -> None:
    shown = {one["name"]: one for one in told(ensue_)["patterns"]}
    assert sorted(shown) == ["Probed", "Twice"]
    probed = shown["Probed"]
    assert (probed["state"], probed["lag_events"], probed["dead_letters"]) == ("unowned", 0, 0)
    assert (probed["events"], probed["findings"], probed["keys"]) == (6, 1, 1)
    assert probed["bytes"] > 0
    assert probed["micros_per_event"] > 0
    result = ensue_("patterns")
    assert result.stdout.splitlines()[0].split("\t")[:3] == ["pattern", "state", "lag"]


def test_a_pattern_is_shown_in_words(fraud: Path, ensue_: Ensue) -> None:
    result = ensue_("patterns", "show", "Probed")
    assert result.exit_code == 0, result.output
    assert "1. probe: one Payment with probe.amount < 2" in result.stdout
    assert ensue_("patterns", "show", "watched:Probed").stdout == result.stdout
    assert told(ensue_, "show", "Probed")["steps"][0]["conditions"] == ["probe.amount < 2"]


def test_what_waits_is_shown_by_key(fraud: Path, ensue_: Ensue) -> None:
    (waiting,) = told(ensue_, "partials", "Probed")["partials"]
    assert (waiting["key"], waiting["waiting_for"]) == ("c2", "large")
    assert waiting["steps"]["probe"]["amount"] == "1"
    assert told(ensue_, "partials", "Probed", "--key", "c3")["partials"] == []
    assert ensue_("patterns", "partials", "Probed", "--key", "c3").stdout == "nothing waits for c3\n"
    lines = ensue_("patterns", "partials", "Probed", "--key", "c2").stdout.splitlines()
    assert lines[0] == "key\tsince\ttook\twaits for\tuntil"
    assert "\tlarge\t" in lines[1]


def test_why_says_which_conditions_held(fraud: Path, ensue_: Ensue) -> None:
    rows = ensue_("log", "--type", "Probed", "--json").stdout.splitlines()
    event = json.loads(rows[0])
    found = told(ensue_, "why", event["id"][:13])
    assert [one["position"] for one in found["took"]] == [1, 2, 3]
    assert found["took"][1]["checks"] == [
        {"text": "large.amount > 200", "holds": True, "values": {"large.amount": "300"}}
    ]
    result = ensue_("patterns", "why", event["position"])
    assert "  large took Payment 2\n    large.amount > 200 holds (large.amount = 300)" in result.stdout


def test_why_not_says_what_was_in_the_way(fraud: Path, ensue_: Ensue) -> None:
    found = told(ensue_, "why-not", "Probed", "--key", "c2")
    assert (found["done"], found["steps"], found["waiting_for"]) == (1, 2, ["large"])
    assert [one["cause"] for one in found["reasons"]] == ["waiting", "failed"]
    said = ensue_("patterns", "why-not", "Probed", "--key", "c3").stdout
    at = position(ensue_, "c3")
    assert said == f"Probed of c3: Payment {at} is not taken by probe: probe.amount < 2 fails (probe.amount was 50)\n"


def test_why_not_of_an_event_knows_its_key(fraud: Path, ensue_: Ensue) -> None:
    at = position(ensue_, "c2", 1)
    said = ensue_("patterns", "why-not", "Probed", "--event", at).stdout
    assert f"Payment {at} is not taken by large: large.amount > 200 fails (large.amount was 150)" in said
    assert "is part of a match" in ensue_("patterns", "why-not", "Probed", "--event", 2).stdout


def position(ensue_: Ensue, card: str, number: int = 0) -> int:
    rows = ensue_("log", "--type", "Payment", "--key", f"card={card}", "--json").stdout.splitlines()
    found: int = json.loads(rows[number])["position"]
    return found


def test_nothing_personal_is_shown(fraud: Path, ensue_: Ensue) -> None:
    shown = [
        ensue_("patterns", "partials", "Twice", "--key", "c2").stdout,
        ensue_("patterns", "partials", "Twice", "--json").stdout,
        ensue_("patterns", "why-not", "Twice", "--key", "c3").stdout,
        ensue_("patterns", "why-not", "Twice", "--key", "c3", "--json").stdout,
        ensue_("patterns", "why", "Probed").stdout,
    ]
    assert not any("secret" in one for one in shown)
    assert "payer=…" in shown[0]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "Nothing"), 2, "fraud has no pattern 'Nothing'; it has: Probed, Twice"),
        (("why-not", "Probed"), 2, "say of which key, --key KEY, or of which event, --event POSITION"),
        (("why-not", "Probed", "--event", "999"), 1, "there is no event at position 999"),
        (("why", "1"), 1, "the event at position 1 is a Payment, which is no match of a pattern of fraud"),
        (("why", "ffffffff"), 1, "there is no event with the id 'ffffffff'"),
    ],
)
def test_what_cannot_be_told_is_said(
    fraud: Path, ensue_: Ensue, arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = ensue_("patterns", *arguments)
    assert result.exit_code == code, result.output
    assert said in result.stderr


def test_a_window_is_said_to_be_no_pattern(fraud: Path, ensue_: Ensue) -> None:
    for name, said in (
        ("PerMinute", "PerMinute is a window or join of counting, and this is for patterns alone"),
        ("watched:PerMinute", "watched:PerMinute is a window, and this is for patterns alone"),
        ("Nothing", "counting has no pattern 'Nothing'; it has: none"),
    ):
        result = ensue_("patterns", "show", name, "--app", "watched:counting")
        assert result.exit_code == 2
        assert said in result.stderr


def test_without_an_application_the_list_is_there_and_the_rest_says_what_is_missing(fraud: Path, ensue_: Ensue) -> None:
    (fraud / "pyproject.toml").unlink()
    assert len(told(ensue_)["patterns"]) == 2
    result = ensue_("patterns", "show", "Probed")
    assert result.exit_code == 2
    assert "say which application has the pattern: --app module:app" in result.stderr


def test_a_log_without_patterns_says_so(folder: Path, log_file: Path, ensue_: Ensue) -> None:
    assert "no pattern is known to" in ensue_("patterns").stdout
