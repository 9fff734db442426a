"""The demos of the bank and of the school: everything holds under many clients, several processes and kills; and if it did not, it
would be seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ensue import App, Event
from ensue.examples.bank import bank
from ensue.examples.bank import running as bank_running
from ensue.examples.bank.accounts import movement
from ensue.examples.bank.ledger import Ledger
from ensue.examples.bank.messages import CASH, AccountClosed, AccountOpened, Deposited, Withdrawn
from ensue.examples.crowd import Looking, Settings
from ensue.examples.enrolment import running as school_running
from ensue.examples.enrolment import school
from ensue.examples.enrolment.school import CourseOpened, Enrolled, Left
from ensue.world import RealWorld
from tests.servers.postgresql import PostgresServer

RUNS: dict[str, Callable[..., Awaitable[Any]]] = {"bank": bank_running.run, "enrolment": school_running.run}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{quote(str(tmp_path / 'log.db'))}"


def crowd_on(url: str, demo: str, *, processes: int = 2, kills: int = 4, seconds: float = 4) -> Any:
    seen: list[Looking] = []
    settings = Settings(url=url, seconds=seconds, clients=64, processes=processes, kills=kills, seed=5)

    async def run() -> Any:
        async with asyncio.timeout(100):
            return await RUNS[demo](settings, RealWorld(), stop=asyncio.Event(), show=seen.append)

    report = asyncio.run(run())
    assert report.problems == []
    assert report.commands_answered > 64
    assert 0 < report.kills <= kills
    assert all(looking.problems == 0 for looking in seen)
    return report


@pytest.mark.slow
@pytest.mark.parametrize("demo", RUNS)
def test_all_holds_on_a_file_though_processes_are_killed(demo: str, url: str) -> None:
    crowd_on(url, demo)


@pytest.mark.slow
@pytest.mark.parametrize("writers", ["", "&ensue_writers=many"])
@pytest.mark.parametrize("demo", RUNS)
def test_all_holds_on_a_server_though_processes_are_killed(demo: str, writers: str, postgresql_url: str) -> None:
    crowd_on(postgresql_url + writers, demo, processes=3, kills=6)


@pytest.mark.slow
def test_all_holds_though_the_server_is_killed_under_all_of_them(own_postgresql: PostgresServer) -> None:
    deaths: list[float] = []

    async def run() -> bank_running.Report:
        settings = Settings(url=own_postgresql.url(), seconds=8, clients=32, processes=2, kills=0, seed=6)
        work: list[asyncio.Task[None]] = []

        async def kill() -> None:
            await asyncio.to_thread(own_postgresql.kill)
            await asyncio.to_thread(own_postgresql.start)

        def show(looking: Looking) -> None:
            if looking.answered > 50 * (len(deaths) + 1) and len(deaths) < 2:
                deaths.append(looking.seconds)
                work.append(asyncio.ensure_future(kill()))

        async with asyncio.timeout(100):
            report = await bank_running.run(settings, RealWorld(), stop=asyncio.Event(), show=show)
            await asyncio.gather(*work)
        return report

    report = asyncio.run(run())
    assert report.problems == []
    assert deaths


# ----------------------------------------------------------------------- what the second counts see when something is wrong


async def read(app: App, events: Sequence[Event], count: Any) -> list[str]:
    async with app.connected():
        for event in events:
            await app.publish(event)
        await count.read(app)
    problems: list[str] = count.problems
    return problems


OPEN = AccountOpened(account_id="a", owner="Ann", limit=Decimal(5))
FULL = [OPEN, *movement("m0", CASH, "a", Decimal(10))]


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([*FULL, *movement("m1", "a", CASH, Decimal(15))], []),
        ([*FULL, *movement("m1", "a", CASH, Decimal(16))], ["a is at -6, and may not go below -5"]),
        ([*FULL, *movement("m0", "a", CASH, Decimal(1))], ["the movement m0 was made again"]),
        (
            [*FULL, Withdrawn(account_id="a", movement_id="m1", amount=Decimal(1)), *FULL[1:]],
            ["has lost its second leg", "m0 was made again", "all balances together are -1"],
        ),
        (
            [*FULL, Deposited(account_id="a", movement_id="m1", amount=Decimal(1))],
            ["all balances together are 1"],
        ),
        ([*FULL, AccountClosed(account_id="a")], ["a was closed with 10"]),
        ([OPEN, AccountClosed(account_id="a"), *FULL[1:]], ["a moved, and is not open"]),
        ([*FULL[1:]], ["a moved, and is not open"]),
        ([OPEN, OPEN], ["a was opened twice"]),
    ],
)
def test_the_ledger_sees_what_no_bank_may_do(events: list[Event], said: list[str], url: str) -> None:
    problems = asyncio.run(read(bank(url), events, Ledger()))
    assert len(problems) == len(said), problems
    assert all(text in problem for text, problem in zip(said, problems, strict=True)), problems


def test_the_ledger_compares_answers_and_knows_balances_by_time(url: str) -> None:
    ledger = Ledger()
    assert asyncio.run(read(bank(url), FULL, ledger)) == []
    assert ledger.answered({"m0": True, "m1": False}) == []
    assert ledger.answered({"m0": False, "m1": True}) == [
        "m0 was refused, and the log has it 1 times",
        "m1 was granted, and the log has it 0 times",
    ]
    assert ledger.balance_before("a", datetime(2026, 1, 1, tzinfo=UTC)) == 0
    assert ledger.balance_before("a", datetime.now(UTC)) == 10
    assert ledger.balance_before("a", ledger.times()[-1]) == 0


C = CourseOpened(course_id="c", places=1)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([C, Enrolled(course_id="c", student_id="s")], None),
        ([C, *[Enrolled(course_id="c", student_id=f"s{n}") for n in (1, 2)]], "c has 2 students and 1 places"),
        ([CourseOpened(course_id="c", places=9), *[Enrolled(course_id="c", student_id="s")] * 2], "s is in c already"),
        ([C, Left(course_id="c", student_id="s")], "s left c without being in it"),
        (
            [
                event
                for n in range(6)
                for event in (
                    CourseOpened(course_id=f"c{n}", places=1),
                    Enrolled(course_id=f"c{n}", student_id="s"),
                )
            ],
            "s is in 6 courses",
        ),
    ],
)
def test_the_register_sees_what_no_school_may_do(events: list[Event], said: str | None, url: str) -> None:
    problems = asyncio.run(read(school(url), events, school_running.Register()))
    assert len(problems) == (said is not None), problems
    assert said is None or said in problems[0]
