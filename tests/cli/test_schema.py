"""`ensue schema`: in continuous integration it refuses what would orphan recorded events, and keeps samples of them."""

from __future__ import annotations

import asyncio
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ensue.cli.loading import load_app
from ensue.testing import check_samples
from tests.cli.conftest import Ensue

FIRST = """
from decimal import Decimal
from ensue import App, Event

class Baked(Event, key="bread"):
    bread: str
    weight: int

class Sold(Event, key="bread"):
    bread: str
    price: Decimal

app = App("bakery")

@app.on(start="beginning")
async def sell(baked: Baked) -> None: ...
"""
RENAMED = FIRST.replace("class Baked(Event, key", 'class Baked(Event, version=2, was=("Bread",), key').replace(
    "weight: int", "grams: int"
)
UPCAST = (
    RENAMED
    + """
from ensue import Fields, upcast

@upcast(Baked, version=1)
def in_grams(old: Fields) -> Fields:
    return {"bread": old["bread"], "grams": 1000 * old["weight"]}
"""
)


def code(text: str) -> None:
    """The application's code from now on."""
    sys.modules.pop("bakery", None)
    Path("bakery.py").write_text(text)
    sys.dont_write_bytecode = True


def publish(*events: tuple[str, dict[str, Any]], url: str = "sqlite:///bakery.db") -> None:
    """Events of the present code: the names of their classes, and their fields."""

    async def run() -> None:
        app = load_app("bakery:app")
        here = vars(sys.modules["bakery"])
        app._settings["url"] = url
        async with app.connected():
            for name, fields in events:
                await app.publish(here[name](**fields))

    asyncio.run(run())


@pytest.mark.usefixtures("folder")
class TestAgainstAFile:
    def test_what_was_written_is_readable_and_a_change_that_is_not_is_refused(self, ensue_: Ensue) -> None:
        code(FIRST)
        wrote = ensue_("schema", "write", "bakery:app", "events.json")
        assert (wrote.exit_code, wrote.output) == (0, "wrote events.json: 2 versions of 2 types\n")
        same = ensue_("schema", "check", "bakery:app", "--against", "events.json")
        assert (same.exit_code, same.output) == (0, "readable: 2 recorded versions checked, nothing found\n")

        code(FIRST.replace("price: Decimal", "price: int").replace("weight: int", "weight: int\n    kind: str"))
        changed = ensue_("schema", "check", "bakery:app", "--against", "events.json")
        assert changed.exit_code == 1
        assert (
            "Baked version 1, kind: is new and has no default, and what is recorded lacks it. To do:" in changed.output
        )
        assert "Sold version 1, price: was decimal and is int" in changed.output
        assert "not readable: 2 findings in 2 recorded versions" in changed.output
        before = Path("events.json").read_bytes()
        assert ensue_("schema", "write", "bakery:app", "events.json").exit_code == 1
        assert Path("events.json").read_bytes() == before

    def test_findings_are_data(self, ensue_: Ensue) -> None:
        code(FIRST)
        ensue_("schema", "write", "bakery:app", "events.json")
        code(RENAMED)
        told = ensue_("schema", "check", "bakery:app", "--against", "events.json", "--json")
        assert told.exit_code == 1
        found = json.loads(told.output)
        assert (found["readable"], found["versions"]) == (False, 2)
        assert found["findings"][0]["type"] == "Baked"
        assert "@upcast(Baked, version=1)" in found["findings"][0]["reason"]

    def test_a_new_version_with_its_upcaster_is_readable_and_stands_beside_the_old_one(self, ensue_: Ensue) -> None:
        code(FIRST)
        ensue_("schema", "write", "bakery:app", "events.json")
        code(UPCAST)
        assert ensue_("schema", "check", "bakery:app", "--against", "events.json").exit_code == 0
        wrote = ensue_("schema", "write", "bakery:app", "events.json")
        assert wrote.output == "wrote events.json: 3 versions of 2 types\n"
        code(UPCAST.replace("@upcast(Baked, version=1)", ""))
        assert ensue_("schema", "check", "bakery:app", "--against", "events.json").exit_code == 1

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("check", "bakery:app"), "say what to check against: --log URL, --against FILE, or both"),
            (("check", "bakery:app", "--against", "none.json"), "there is no file none.json"),
            (("check", "bakery:app", "--against", "bakery.py"), "bakery.py is no file of schema that can be read"),
            (("check", "bakery:app", "--against", "bakery.py", "--all"), "--all is about the events of a log"),
            (("check", "--against", "bakery.py"), "say which application: MODULE:APP"),
        ],
    )
    def test_wrong_usage_is_told(self, ensue_: Ensue, arguments: tuple[str, ...], words: str) -> None:
        code(FIRST)
        told = ensue_("schema", *arguments)
        assert told.exit_code != 0
        assert words in f"{told.output} {told.exception}"


@pytest.mark.usefixtures("folder")
class TestAgainstALog:
    def test_events_of_former_versions_and_names_are_read(self, ensue_: Ensue) -> None:
        code(FIRST.replace("class Baked", "class Bread").replace("baked: Baked", "baked: Bread"))
        publish(("Bread", {"bread": "rye", "weight": 1}))
        code(FIRST)
        publish(("Baked", {"bread": "rye", "weight": 2}), ("Sold", {"bread": "rye", "price": Decimal(3)}))
        code(UPCAST)
        told = ensue_("schema", "check", "bakery:app", "--log", "sqlite:///bakery.db")
        assert (told.exit_code, told.output) == (
            0,
            "readable: 3 recorded versions and 3 events checked, nothing found\n",
        )

    def test_what_no_type_reads_is_told(self, ensue_: Ensue) -> None:
        code(FIRST)
        publish(("Baked", {"bread": "rye", "weight": 2}), ("Sold", {"bread": "rye", "price": Decimal(3)}))
        code(FIRST.replace("class Sold", "class Soldout"))
        told = ensue_("schema", "check", "bakery:app", "--log", "sqlite:///bakery.db")
        assert told.exit_code == 1
        assert "Sold version 1: is recorded, and no type of the code is called so" in told.output

    def test_an_upcaster_that_fails_on_one_real_event_is_found_with_its_position(self, ensue_: Ensue) -> None:
        code(FIRST)
        publish(*(("Baked", {"bread": "rye", "weight": int(number != 250)}) for number in range(500)))
        code(UPCAST.replace("1000 * old", "1000 // old"))
        check = ("schema", "check", "bakery:app", "--log", "sqlite:///bakery.db")
        assert ensue_(*check).exit_code == 0, "neither among the oldest nor among the newest hundred"
        told = ensue_(*check, "--all")
        assert told.exit_code == 1
        assert (
            "Baked version 1 at position 251: cannot be read: the upcaster in_grams of Baked version 1 raised Zero"
            in told.output
        )

    def test_events_whose_key_would_change_are_told(self, ensue_: Ensue) -> None:
        code(FIRST)
        publish(("Baked", {"bread": "rye", "weight": 2}))
        code(FIRST.replace('class Baked(Event, key="bread"', 'class Baked(Event, key={"bread": "loaf"}'))
        told = ensue_("schema", "check", "bakery:app", "--log", "sqlite:///bakery.db")
        assert "Baked version 1 at position 1: is in the stream bread=rye, and its key would be loaf=rye" in told.output
        assert told.exit_code == 1

    def test_a_log_that_is_not_there_is_told_and_not_made(self, ensue_: Ensue) -> None:
        code(FIRST)
        assert ensue_("schema", "check", "bakery:app", "--log", "sqlite:///no.db").exit_code == 3
        assert not Path("no.db").exists()


JOINED = """
from ensue import App, Event, Personal

class Joined(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[str]

app = App("bakery")

@app.on(start="beginning")
async def greet(joined: Joined) -> None: ...
"""


@pytest.mark.usefixtures("folder")
class TestPersonalData:
    def test_sealed_fields_are_checked_with_their_keys_and_samples_hold_nothing_of_anybody(self, ensue_: Ensue) -> None:
        code(JOINED)
        publish(("Joined", {"customer_id": "c1", "email": "ada@example.org"}))
        told = ensue_("schema", "check", "bakery:app", "--log", "sqlite:///bakery.db")
        assert (told.exit_code, told.output) == (0, "readable: 1 recorded version and 1 event checked, nothing found\n")
        ensue_("schema", "samples", "bakery:app", "--write", "samples.json")
        ensue_("schema", "write", "bakery:app", "events.json")
        check_samples(load_app("bakery:app"), "samples.json")
        assert "ada" not in Path("samples.json").read_text() + Path("events.json").read_text()

    def test_a_field_may_become_personal_and_not_the_other_way_round(self, ensue_: Ensue) -> None:
        plain = JOINED.replace("Personal[str]", "str")
        code(plain)
        ensue_("schema", "write", "bakery:app", "events.json")
        code(JOINED)
        assert ensue_("schema", "check", "bakery:app", "--against", "events.json").exit_code == 0
        ensue_("schema", "write", "bakery:app", "events.json")
        code(plain)
        told = ensue_("schema", "check", "bakery:app", "--against", "events.json")
        assert told.exit_code == 1
        assert "Joined version 1, email: was personal, text and is text" in told.output


@pytest.mark.usefixtures("folder")
class TestSamples:
    def test_each_version_has_a_sample_that_is_kept_and_held_to(self, ensue_: Ensue) -> None:
        code(FIRST)
        wrote = ensue_("schema", "samples", "bakery:app", "--write", "samples.json")
        assert (wrote.exit_code, wrote.output) == (0, "wrote samples.json: 2 samples, 2 of them new\n")
        check_samples(load_app("bakery:app"), "samples.json")

        code(UPCAST)
        with pytest.raises(AssertionError, match=r"Baked version 1 is read as Baked version 2 .*7000") as drift:
            check_samples(load_app("bakery:app"), "samples.json")
        assert "Baked version 2 has no sample" in str(drift.value)
        assert ensue_("schema", "samples", "bakery:app", "--write", "samples.json").output.endswith(
            "3 samples, 1 of them new\n"
        )
        check_samples(load_app("bakery:app"), "samples.json")

        code(UPCAST.replace("1000 *", "100 *"))
        with pytest.raises(
            AssertionError, match=r"(?s)^1 of the samples .*Baked version 1 is read as .*700\}.*recorded .*7000"
        ):
            check_samples(load_app("bakery:app"), "samples.json")
        code(RENAMED)
        with pytest.raises(AssertionError, match=r"Baked version 1 cannot be read any more: .*nothing leads from it"):
            check_samples(load_app("bakery:app"), "samples.json")

    def test_in_a_folder_each_is_a_file(self, ensue_: Ensue) -> None:
        code(FIRST)
        for _ in range(2):
            assert ensue_("schema", "samples", "bakery:app", "--write", "samples").exit_code == 0
            assert sorted(file.name for file in Path("samples").iterdir()) == ["Baked.v1.json", "Sold.v1.json"]
        check_samples(load_app("bakery:app"), "samples")

    @pytest.mark.parametrize(
        ("old", "new"), [('"weight": 7', '"weight": 8'), ('"a bread"', '"b"'), ('"12.50"', '"12.5"')]
    )
    def test_a_sample_that_was_changed_by_hand_is_told(self, ensue_: Ensue, old: str, new: str) -> None:
        code(FIRST)
        ensue_("schema", "samples", "bakery:app", "--write", "samples.json")
        text = Path("samples.json").read_text()
        assert text.count(old) >= 2
        Path("samples.json").write_text(text.replace(old, new, 1))
        with pytest.raises(AssertionError, match="is read as"):
            check_samples(load_app("bakery:app"), "samples.json")

    def test_what_cannot_be_read_any_more_is_not_recorded_anew(self, ensue_: Ensue) -> None:
        code(FIRST)
        ensue_("schema", "samples", "bakery:app", "--write", "samples.json")
        code(RENAMED)
        told = ensue_("schema", "samples", "bakery:app", "--write", "samples.json")
        assert told.exit_code == 2
        assert "the sample of Baked version 1 cannot be read" in told.output
