"""The compiled form of patterns on a real Flink: it finds what the pattern means."""

from __future__ import annotations

import asyncio
import csv
import gzip
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from ensue.errors import DefinitionError, FlinkFailed, NotPortable
from ensue.events.recorded import microseconds
from ensue.examples.noticing.loans import Done, SentTwice, progress, waiting
from ensue.examples.noticing.machine import Cold, Jump, Reading, Silence
from ensue.patterns import Pattern
from ensue.patterns.flink import Session, to_flink
from ensue.world import RealWorld
from tests.patterns import test_cases
from tests.patterns.comparing import BEHIND
from tests.patterns.flink.cases import PATTERNS, START
from tests.patterns.flink.comparing import (
    Found,
    Streamed,
    ask_flink,
    found_by_the_engine,
    found_by_the_oracle,
    random_events,
    write_events,
)
from tests.patterns.generating import draw_shape, draw_stream
from tests.patterns.oracle import Timed
from tests.patterns.shapes import PatternShape, build, program
from tests.servers.flink import FlinkAddress
from tests.servers.test_kafka_server import listening

T = TypeVar("T")

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
LOANS = DATA / "loan-applications.csv.gz"
MACHINE = DATA / "nab" / "machine_temperature_system_failure.csv"
STREAMS, SEED = 60, 20
"""So many keys; a pattern finds a few matches in most of them."""
DRAWN, STREAMS_OF_EACH = 8, 10
LOAN_ROWS = 30_000
"""Of the applications that began first."""
STREAMING = {"execution.runtime-mode": "streaming"}


def run(story: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(story)


async def asked(flink: FlinkAddress, patterns: list[type[Pattern]], file: Path) -> dict[str, list[Found]]:
    async with Session(flink.gateway, RealWorld(), STREAMING) as session:
        return await ask_flink(session, patterns, file)


def test_the_cluster_of_the_tests_listens_on_loopback_alone(flink: FlinkAddress) -> None:
    with urllib.request.urlopen(f"{flink.gateway}/v3/info", timeout=10) as response:
        assert flink.version.encode() in response.read()
    for url in (flink.gateway, flink.cluster):
        port = int(url.rpartition(":")[2])
        found = {place for place in listening() if place.endswith(f":{port:04X}")}
        loopback = {f"0100007F:{port:04X}", f"0000000000000000FFFF00000100007F:{port:04X}"}
        assert len(found & loopback) == len(found) == 1


@pytest.mark.slow
def test_every_portable_pattern_finds_on_flink_what_it_means(flink: FlinkAddress, tmp_path: Path) -> None:
    events = random_events(STREAMS, SEED)
    write_events(tmp_path / "events.json", events)
    found = run(asked(flink, PATTERNS, tmp_path / "events.json"))
    for pattern in PATTERNS:
        expected = found_by_the_oracle(pattern, events)
        assert expected, f"{pattern.__name__} finds nothing, so that nothing is compared"
        assert found_by_the_engine(pattern, events) == expected, pattern.__name__
        assert found[pattern.__name__] == expected, pattern.__name__


def drawn(chance: Random) -> Iterator[tuple[PatternShape, type[Pattern]]]:
    """Random patterns, of those that are portable."""
    number = 0
    while True:
        shape = draw_shape(chance)
        try:
            pattern = build(shape, f"Drawn{number}")
            to_flink(pattern)
        except (DefinitionError, AttributeError, NotPortable):
            continue
        yield shape, pattern
        number += 1


def worked(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Pattern], list[Timed]]]:
    """The worked cases of all constructs, of those that are portable; with conditions that can be read."""

    def letter(wanted: str) -> Callable[[Any], bool]:
        letters = tuple(wanted)
        return lambda event: event.s in letters

    monkeypatch.setattr(test_cases, "letter", letter)
    for number, (name, case) in enumerate(test_cases.CASES.items()):
        within = case.get("within", BEHIND)
        pattern = test_cases.pattern(case["steps"], within, case.get("skip", "next"), f"Worked{number}")
        try:
            to_flink(pattern)
        except NotPortable:
            continue
        yield name, pattern, test_cases.stream(case["stream"])[0]


@pytest.mark.slow
def test_random_patterns_and_worked_cases_find_on_flink_what_they_mean(
    flink: FlinkAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = Random(SEED)
    sought: dict[str, type[Pattern]] = {}
    streams: list[list[Timed]] = []
    for (shape, pattern), _ in zip(drawn(chance), range(DRAWN), strict=False):
        sought[program(shape)] = pattern
        streams += [draw_stream(chance, shape) for _ in range(STREAMS_OF_EACH)]
    for name, pattern, stream in worked(monkeypatch):
        sought[name] = pattern
        streams.append(stream)
    timed: list[tuple[int, Any]] = []
    for number, stream in enumerate(streams):
        begin = START + 1000 * chance.randrange(50) - 3  # so that some cross a millisecond
        timed += [(begin + one.time, with_key(one.event, f"{number}-")) for one in stream]
    timed.sort(key=lambda one: one[0])
    events = [(time, position, event) for position, (time, event) in enumerate(timed)]
    write_events(tmp_path / "events.json", events)
    found = run(asked(flink, list(sought.values()), tmp_path / "events.json"))
    for name, pattern in sought.items():
        assert found[pattern.__name__] == found_by_the_oracle(pattern, events), name


def with_key(event: Any, prefix: str) -> Any:
    return type(event)(k=f"{prefix}{event.k}", n=event.n, s=event.s)


def real_loans() -> Streamed:
    with gzip.open(LOANS, "rt", encoding="utf-8") as lines:
        rows = [
            Done(
                application=row["case_id"],
                activity=row["activity"],
                lifecycle=row["lifecycle"],
                at=datetime.fromisoformat(row["timestamp"]),
                resource=row["resource"] or None,
            )
            for row in islice(csv.DictReader(lines), LOAN_ROWS)
        ]
    rows.sort(key=lambda row: row.at)
    return [(microseconds(row.at), position, row) for position, row in enumerate(rows)]


def real_machine() -> Streamed:
    with MACHINE.open(encoding="utf-8") as lines:
        rows = [
            Reading(
                machine="m",
                at=datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC),
                celsius=float(row["value"]),
            )
            for row in csv.DictReader(lines)
        ]
    rows.sort(key=lambda row: row.at)
    return [(microseconds(row.at), position, row) for position, row in enumerate(rows)]


@pytest.mark.slow
@pytest.mark.skipif(not LOANS.exists() or not MACHINE.exists(), reason="the real data are not here")
def test_patterns_find_on_flink_in_real_data_what_they_find_here(flink: FlinkAddress, tmp_path: Path) -> None:
    sought: list[tuple[Streamed, list[type[Pattern]]]] = [
        (real_loans(), [SentTwice, waiting(timedelta(days=5)), progress(timedelta(days=15))]),
        (real_machine(), [Silence, Jump, Cold]),
    ]
    for events, patterns in sought:
        file = tmp_path / "events.json"
        write_events(file, events)
        found = run(asked(flink, patterns, file))
        for pattern in patterns:
            expected = found_by_the_engine(pattern, events)
            assert expected
            assert found[pattern.__ensue_pattern__.name] == expected, pattern.__name__


def test_what_flink_says_of_a_statement_is_told_and_a_job_goes_on_until_it_is_ended(flink: FlinkAddress) -> None:
    async def story() -> None:
        async with Session(flink.gateway, RealWorld(), STREAMING) as session:
            with pytest.raises(FlinkFailed, match=r"run: SELECT nothing; it says: .*'nothing' not found"):
                await session.execute("SELECT nothing")
            with pytest.raises(FlinkFailed, match="For input string: 'x'"):
                await session.execute("SELECT CAST('x' AS INT)")
            await session.execute(
                "CREATE TABLE given (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '50')"
            )
            await session.execute("CREATE TABLE gone (n BIGINT) WITH ('connector' = 'print')")
            job = await session.submit("INSERT INTO gone SELECT * FROM given")
            rows = session.rows("SELECT n FROM given")
            assert [len(await anext(rows)) for _ in range(3)] == [1, 1, 1]
            await rows.aclose()
        async with Session(flink.gateway, RealWorld()) as session:
            assert await session.state(job) in ("CREATED", "INITIALIZING", "RUNNING")
            await session.cancel(job)
            while await session.state(job) not in ("CANCELED", "FINISHED"):
                pass
            assert await session.state("0" * 32) == ""
            with pytest.raises(DefinitionError, match="no id of a job"):
                await session.cancel("1'; DROP")

    run(story())
