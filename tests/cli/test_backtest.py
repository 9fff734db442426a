"""`ensue backtest` shows what a pattern would have found in a file or a log."""

from __future__ import annotations

import asyncio
import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as arrow  # pyright: ignore[reportMissingTypeStubs]
import pytest
from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]

from ensue import App, Event
from ensue.patterns.history import backtest
from tests.cli.conftest import Ensue

PLANT = """
from datetime import datetime

from ensue import Event, minutes
from ensue.patterns import Pattern, Window, absent, count, one, several


class Reading(Event, key="sensor"):
    sensor: str
    celsius: float
    note: str | None = None


class Ended(Event, key="sensor"):
    sensor: str


class Stamped(Event, key="sensor", time="at"):
    sensor: str
    at: datetime


class Again(Pattern, within=minutes(15), time="event"):
    first = one(Stamped)
    second = one(Stamped, lambda s: s.at.minute == 2)


class Silence(Pattern, within=minutes(15)):
    last = one(Reading)
    gap = absent(Reading)


class Hot(Pattern, within=minutes(15)):
    hot = several(Reading, lambda r: r.celsius > 90, times=2)


class Hotter(Pattern, within=minutes(15)):
    very = several(Reading, lambda r: r.celsius > 95, times=2)


class Lasting(Pattern, within=minutes(15)):
    hot = one(Reading, lambda r: r.celsius > 90)
    end = one(Ended)


class Strict(Pattern, within=minutes(15)):
    hot = one(Reading, lambda r: r.celsius > 90)
    hotter = one(Reading, lambda r: r.celsius > 92, contiguity="strict")


class PerMinute(Window, size=minutes(1)):
    many = count(Reading)


class Broken(Pattern, within=minutes(15)):
    hot = one(Reading, lambda r: 1 / r.celsius > 0)
"""

START = datetime(2026, 3, 1, 8, tzinfo=UTC)

READINGS = """timestamp,sensor,celsius
2026-03-01T08:00:00Z,s1,91
2026-03-01T08:05:00Z,s1,96
2026-03-01T08:05:00Z,s2,50
2026-03-01T08:30:00Z,s1,97
2026-03-01T08:31:00Z,s1,99
"""


@pytest.fixture
def plant(folder: Path) -> Path:
    (folder / "plant.py").write_text(PLANT)
    (folder / "readings.csv").write_text(READINGS)
    return folder


def told(ensue_: Ensue, *arguments: object, code: int = 0) -> dict[str, Any]:
    result = ensue_("backtest", *arguments, "--json")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_csv_is_searched_and_its_matches_are_shown(plant: Path, ensue_: Ensue) -> None:
    result = ensue_("backtest", "plant:Hot", "readings.csv")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "at\tkey\tsince\ttook"
    assert lines[1].startswith("2026-03-01T08:05:00Z\ts1\t2026-03-01T08:00:00Z\thot=[Reading(sensor='s1', celsius=91.0")
    assert lines[3].startswith("2 matches of Hot in 5 events; ")
    assert "5 rows in" in lines[3]


def test_json_has_counts_and_typed_matches(plant: Path, ensue_: Ensue) -> None:
    found = told(ensue_, "plant:Hot", "readings.csv")
    assert (found["found"], found["rows"], found["events"], found["unread"]) == (2, 5, 5, [])
    first = found["matches"][0]
    assert first["started"] == "2026-03-01T08:00:00Z"
    assert first["steps"]["hot"][1] == {"type": "Reading", "sensor": "s1", "celsius": 96.0, "note": None}


def test_time_ends_with_the_last_event(plant: Path, ensue_: Ensue) -> None:
    found = told(ensue_, "plant:Silence", "readings.csv")
    assert [(one["key"], one["ended"]) for one in found["matches"]] == [
        ("s1", "2026-03-01T08:20:00Z"),
        ("s2", "2026-03-01T08:20:00Z"),
    ]


def test_columns_of_other_names_are_said(plant: Path, ensue_: Ensue) -> None:
    (plant / "other.csv").write_text("when;device;temp\n2026-03-01 08:00;7;91\n2026-03-01 08:01;7;92\n")
    columns = ("--time", "when", "--key", "device", "--field", "celsius=temp", "--timezone", "Europe/Berlin")
    (match,) = told(ensue_, "plant:Hot", "other.csv", *columns)["matches"]
    assert (match["key"], match["started"]) == ("7", "2026-03-01T07:00:00Z")


def test_a_field_may_have_one_value_in_all_rows(plant: Path, ensue_: Ensue) -> None:
    (plant / "one.csv").write_text("time,celsius\n2026-03-01T08:00Z,91\n2026-03-01T08:01Z,92\n")
    assert told(ensue_, "plant:Hot", "one.csv", "--value", "sensor=only")["matches"][0]["key"] == "only"


def test_the_field_with_an_events_own_time_is_the_time(plant: Path, ensue_: Ensue) -> None:
    (plant / "own.csv").write_text("at,sensor\n2026-03-01T08:00Z,s1\n2026-03-01T08:02Z,s1\n")
    (match,) = told(ensue_, "plant:Again", "own.csv")["matches"]
    assert match["ended"] == match["steps"]["second"]["at"] == "2026-03-01T08:02:00Z"
    (plant / "other.csv").write_text("when,sensor\n2026-03-01 08:00,s1\n2026-03-01 08:02,s1\n")
    (match,) = told(ensue_, "plant:Again", "other.csv", "--time", "when", "--timezone", "UTC")["matches"]
    assert match["steps"]["second"]["at"] == "2026-03-01T08:02:00Z"


def test_rows_may_be_of_several_types(plant: Path, ensue_: Ensue) -> None:
    rows = "time,what,sensor,celsius\n2026-03-01T08:00Z,Reading,s1,91\n2026-03-01T08:01Z,Other,s1,\n2026-03-01T08:02Z,Ended,s1,\n"
    (plant / "both.csv").write_text(rows)
    found = told(ensue_, "plant:Lasting", "both.csv", "--kind", "what")
    assert (found["found"], found["rows"], found["events"]) == (1, 3, 2)
    result = ensue_("backtest", "plant:Lasting", "both.csv")
    assert result.exit_code == 2
    assert "rows may be Reading or Ended; say which they are, event=, or which column names the type" in result.stderr
    assert told(ensue_, "plant:Lasting", "readings.csv", "--event", "Reading")["events"] == 5


@pytest.mark.parametrize("ending", ["csv.gz", "jsonl", "ndjson.gz", "parquet"])
def test_other_kinds_of_files_give_the_same(plant: Path, ensue_: Ensue, ending: str) -> None:
    rows = [dict(zip(READINGS.split()[0].split(","), line.split(","), strict=True)) for line in READINGS.split()[1:]]
    file = plant / f"again.{ending}"
    if ending == "parquet":
        cells = [{**row, "celsius": float(row["celsius"])} for row in rows]
        parquet.write_table(arrow.Table.from_pylist(cells), file)
    else:
        text = READINGS if "csv" in ending else "\n".join(json.dumps(row) for row in rows)
        file.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    again, first = told(ensue_, "plant:Hot", file.name), told(ensue_, "plant:Hot", "readings.csv")
    assert [one["steps"] for one in again["matches"]] == [one["steps"] for one in first["matches"]]


def test_parquet_times_are_read_as_they_are_typed(plant: Path, ensue_: Ensue) -> None:
    times = arrow.array([1772352000_000000000, 1772352060_000000000], arrow.timestamp("ns", "UTC"))
    parquet.write_table(
        arrow.table({"time": times, "sensor": ["s1", "s1"], "celsius": [91.0, 92.0]}), plant / "typed.parquet"
    )
    assert told(ensue_, "plant:Hot", "typed.parquet")["matches"][0]["ended"] == "2026-03-01T08:01:00Z"


def test_whole_columns_give_what_single_rows_give(plant: Path, ensue_: Ensue, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = Random(7)
    rows = [
        {
            "time": START + timedelta(seconds=chance.randrange(40_000)),
            "sensor": chance.choice("abc"),
            "celsius": temperature,
        }
        for temperature in (chance.uniform(80, 100) for _ in range(200))
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), plant / "typed.parquet")
    texts = [{**row, "celsius": str(row["celsius"])} for row in rows]
    parquet.write_table(arrow.Table.from_pylist(texts), plant / "texts.parquet")
    for pattern in ("plant:Hot", "plant:Silence", "plant:Strict"):
        one_by_one = told(ensue_, pattern, "texts.parquet", "--limit", 1000)
        with monkeypatch.context() as patched:
            patched.setattr(backtest, "lines_of", None)  # it must do without
            whole = told(ensue_, pattern, "typed.parquet", "--limit", 1000)
        assert {**whole, "seconds": 0} == {**one_by_one, "seconds": 0}
        assert whole["found"] > 0


def test_columns_with_a_row_that_is_no_event_are_read_row_by_row(plant: Path, ensue_: Ensue) -> None:
    rows = [
        {"time": START, "sensor": sensor, "celsius": celsius}
        for sensor, celsius in (("s1", 91.0), ("", 92.0), ("s1", None))
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), plant / "holes.parquet")
    found = told(ensue_, "plant:Hot", "holes.parquet", code=1)
    assert [one["line"] for one in found["unread"]] == [2, 3]


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_numbers_are_times_of_a_unit(plant: Path, ensue_: Ensue, unit: str, factor: int) -> None:
    rows = "".join(f"{1772352000 * factor + at * 60 * factor},s1,9{at}\n" for at in (1, 2))
    (plant / "numbers.csv").write_text(f"time,sensor,celsius\n{rows}")
    (match,) = told(ensue_, "plant:Hot", "numbers.csv", "--unit", unit)["matches"]
    assert match["ended"] == "2026-03-01T08:02:00Z"


def test_a_number_that_no_calendar_has_is_no_time(plant: Path, ensue_: Ensue) -> None:
    (plant / "far.csv").write_text("time,sensor,celsius\n1772352000000000,s1,91\nnan,s1,92\n1772352000,s1,93\n")
    found = told(ensue_, "plant:Hot", "far.csv", "--unit", "s", code=1)
    assert [one["line"] for one in found["unread"]] == [2, 3]
    assert found["unread"][0]["reason"] == "1772352000000000 s since 1970 is no time that a calendar has"


def test_rows_that_are_not_in_order_are_sorted(plant: Path, ensue_: Ensue) -> None:
    head, *rows = READINGS.splitlines()
    (plant / "mixed.csv").write_text("\n".join([head, *reversed(rows)]))
    found, straight = told(ensue_, "plant:Hot", "mixed.csv"), told(ensue_, "plant:Hot", "readings.csv")
    assert (found["was_sorted"], straight["was_sorted"]) == (True, False)
    assert [one["steps"] for one in found["matches"]] == [one["steps"] for one in straight["matches"]]


def test_rows_that_cannot_be_read_are_told_with_their_lines(plant: Path, ensue_: Ensue) -> None:
    bad = [
        "timestamp,sensor,celsius",
        "2026-03-01T08:00:00Z,s1,91",
        "2026-03-01T08:01:00Z,s1,warm",
        "yesterday,s1,92",
        "2026-03-01T08:02:00,s1,92",
        "2026-03-01T08:03:00Z,s1",
        "2026-03-01T08:04:00Z,,92",
        '2026-03-01T08:04:00Z,"s\n1",10',
        "2026-03-01T08:04:00Z,s1,",
        "2026-03-01T08:05:00Z,s1,92",
    ]
    (plant / "bad.csv").write_text("\n".join(bad))
    result = ensue_("backtest", "plant:Hot", "bad.csv")
    assert result.exit_code == 1
    assert "1 match of Hot in 3 events" in result.stdout
    assert result.stderr.splitlines() == [
        "line 3: Reading: celsius: Expected float, got str",
        "line 4: 'yesterday' is no time; one looks like 2026-03-01T08:00:00Z",
        "line 5: 2026-03-01 08:02:00 is a local time: say of which timezone",
        "line 6: it has 2 cells, and the heading 3",
        "line 7: Reading: sensor, which is a key or tag, is empty",
        "line 10: Reading: celsius: Expected float, got str",
        "6 rows could not be read",
    ]


def test_a_local_time_that_its_timezone_passes_over_is_told(plant: Path, ensue_: Ensue) -> None:
    rows = "2026-03-29 01:59,s1,91\n2026-03-29 02:30,s1,92\n2026-03-29 03:01,s1,93\n"
    (plant / "summer.csv").write_text("time,sensor,celsius\n" + rows)
    found = told(ensue_, "plant:Hot", "summer.csv", "--timezone", "Europe/Berlin", code=1)
    assert found["unread"] == [
        {"line": 3, "reason": "2026-03-29 02:30:00 does not exist in Europe/Berlin: clocks go forward over it"}
    ]
    (match,) = found["matches"]
    assert (match["started"], match["ended"]) == ("2026-03-29T00:59:00Z", "2026-03-29T01:01:00Z")


def test_a_condition_that_raises_costs_its_row_only(plant: Path, ensue_: Ensue) -> None:
    (plant / "zero.csv").write_text("time,sensor,celsius\n2026-03-01T08:00Z,s1,0\n2026-03-01T08:01Z,s1,5\n")
    found = told(ensue_, "plant:Broken", "zero.csv", code=1)
    assert (found["found"], found["unread"][0]["line"]) == (1, 2)
    assert "ZeroDivisionError" in found["unread"][0]["reason"]


def test_two_versions_are_compared_by_what_they_took(plant: Path, ensue_: Ensue) -> None:
    found = told(ensue_, "plant:Hotter", "readings.csv", "--against", "plant:Hot")
    assert found["both"] == 1
    assert (found["one"]["only"], len(found["other"]["only"])) == ([], 1)
    result = ensue_("backtest", "plant:Hotter", "readings.csv", "--against", "plant:Hot")
    assert result.stdout.splitlines()[0] == "0 matches only of Hotter"
    assert "1 match only of Hot" in result.stdout
    assert "1 match of both, in 5 rows" in result.stdout


def test_a_log_is_searched_by_its_url(plant: Path, ensue_: Ensue) -> None:
    class Reading(Event, key="sensor"):
        sensor: str
        celsius: float

    async def fill() -> None:
        async with App("plant", url="sqlite:///plant.db") as app:
            for celsius in (91, 50, 92):
                await app.publish(Reading(sensor="s1", celsius=celsius))

    asyncio.run(fill())
    found = told(ensue_, "plant:Hot", "sqlite:///plant.db")
    assert [one["key"] for one in found["matches"]] == ["s1"]
    result = ensue_("backtest", "plant:Hot", "sqlite:///plant.db", "--time", "when")
    assert result.exit_code == 2
    assert "is a log, whose events have no columns" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("plant:Cold", "readings.csv"),
            "the module plant has no 'Cold'; it has plant:Again, plant:Silence, plant:Hot",
        ),
        (("plant:Reading", "readings.csv"), "plant:Reading is not a Pattern; it has plant:Again"),
        (
            ("plant:PerMinute", "readings.csv"),
            "plant:PerMinute is a window, and this is for patterns alone; find(PerMinute, events) of ensue.patterns gives",
        ),
        (("plant:Hot", "nothing.csv"), "there is no file 'nothing.csv'"),
        (("plant:Hot", "plant.py"), "plant.py is of no kind that can be read"),
        (
            ("plant:Hot", "readings.csv", "--time", "when"),
            "the time is not in a column 'when'; the columns are: timestamp, sensor",
        ),
        (("plant:Hot", "readings.csv", "--field", "celsius"), "--field celsius: write FIELD=COLUMN"),
        (("plant:Hot", "readings.csv", "--timezone", "Mars"), "--timezone Mars: no such timezone is known"),
        (
            ("plant:Hot", "readings.csv", "--event", "Nothing"),
            "--event Nothing: Hot looks at no such event; it looks at: Reading",
        ),
        (("plant:Hot", "sqlite:///nothing.db"), "there is no log at sqlite:///nothing.db"),
    ],
)
def test_what_cannot_be_searched_is_said(plant: Path, ensue_: Ensue, arguments: tuple[str, ...], said: str) -> None:
    result = ensue_("backtest", *arguments)
    assert result.exit_code in (2, 3)
    assert said in result.stderr


def test_a_file_without_a_column_for_a_field_is_said(plant: Path, ensue_: Ensue) -> None:
    (plant / "few.csv").write_text("time,sensor\n2026-03-01T08:00Z,s1\n")
    result = ensue_("backtest", "plant:Hot", "few.csv")
    assert result.exit_code == 2
    assert "no column is called 'celsius', which Reading needs" in result.stderr


def test_a_text_that_is_not_utf_8_is_said(plant: Path, ensue_: Ensue) -> None:
    (plant / "latin.csv").write_bytes("time,sensor,celsius\n2026-03-01T08:00Z,für,1\n".encode("latin-1"))
    result = ensue_("backtest", "plant:Hot", "latin.csv")
    assert result.exit_code == 2
    assert "latin.csv is not UTF-8" in result.stderr
