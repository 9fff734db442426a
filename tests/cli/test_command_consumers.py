"""`ensue consumers` shows how far everybody is, and pauses, resumes and retires."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ensue.cli.output import exact_time
from ensue.store.base import Node
from ensue.store.nodes import here
from ensue.world import RealWorld
from tests.cli.conftest import Ensue, Sql
from tests.cli.shop import OrderPlaced, shop, until


def consumers(ensue_: Ensue, *arguments: object) -> dict[str, dict[str, Any]]:
    result = ensue_("consumers", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return {one["name"]: one for one in json.loads(result.stdout)["consumers"]}


def test_a_consumer_that_nobody_runs_is_unowned_with_its_lag(log_file: Path, ensue_: Ensue) -> None:
    payment = consumers(ensue_)["take_payment"]
    assert (payment["state"], payment["owners"], payment["events_per_second"]) == ("unowned", [], 0)
    assert (payment["lag_events"], payment["lag_exact"], payment["oldest_undone"]) == (1, True, 15)
    assert payment["lag_seconds"] > 0


def test_what_waits_behind_a_dead_letter_is_no_lag(log_file: Path, ensue_: Ensue) -> None:
    payment = consumers(ensue_)["take_payment"]
    assert (payment["dead_letters"], payment["parked"], payment["retrying"]) == (1, 1, 0)
    assert payment["lag_events"] == 1  # position 15; not 5, which waits behind 4


def test_a_key_that_is_retried_counts_as_lag_with_all_that_waits_in_it(log_file: Path, sql: Sql, ensue_: Ensue) -> None:
    sql("UPDATE ensue_lane SET state = 'retry'")
    payment = consumers(ensue_)["take_payment"]
    assert (payment["retrying"], payment["lag_events"], payment["oldest_undone"]) == (1, 3, 4)


def test_a_consumer_that_is_up_to_date_has_no_lag(log_file: Path, ensue_: Ensue) -> None:
    ship = consumers(ensue_)["ship"]
    assert (ship["lag_events"], ship["lag_seconds"], ship["oldest_undone"], ship["handled"]) == (0, 0, None, 3)


def test_a_long_lag_is_bounded_and_says_so(
    log_file: Path, sql: Sql, ensue_: Ensue, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql("UPDATE ensue_progress SET position = 0")
    monkeypatch.setattr("ensue.cli.consumers.COUNTED", 1)
    monkeypatch.setattr("ensue.cli.consumers.PAGE", 1)
    payment = consumers(ensue_)["take_payment"]
    assert (payment["lag_exact"], payment["lag_events"]) == (False, 15)  # all positions: an upper bound


def test_in_a_pipe_it_is_a_tab_separated_table_with_headings(log_file: Path, ensue_: Ensue) -> None:
    heading, *rows = [line.split("\t") for line in ensue_("consumers").stdout.splitlines()]
    assert heading == ["consumer", "state", "position", "lag", "behind", "rate", "retrying", "dead", "owner"]
    assert [row[0] for row in rows] == ["take_payment", "ship"]
    assert {len(row) for row in rows} == {len(heading)}


def test_a_running_consumer_names_the_process_that_owns_it(folder: Path, ensue_: Ensue) -> None:
    async def look() -> dict[str, dict[str, Any]]:
        async with shop("sqlite:///shop.db") as app:
            receipt = await app.publish(OrderPlaced(order_id="o1", customer="anna", total=Decimal(1)))
            await receipt.wait()
            return await asyncio.to_thread(consumers, ensue_)

    payment = asyncio.run(look())["take_payment"]
    assert (payment["state"], payment["owners"]) == ("running", [str(os.getpid())])


# ------------------------------------------------------------------------------------------------------- ownership


WORLD = RealWorld()
"""One for all: its ids ascend, those of two worlds may not within a millisecond."""


def node(host: str, pid: int, *, seconds: int, can: tuple[int, ...] = ()) -> Node:
    """A process whose lease ends in so many seconds, or ended so many ago."""
    now = WORLD.now()
    return Node(id=WORLD.new_id(), host=host, pid=pid, started_at=now, expires_at=now + seconds * 1_000_000, can=can)


def spread(*processes: tuple[Node, int]) -> None:
    """The consumer take_payment of the log here, with these processes that own so many of its segments."""

    async def run() -> None:
        async with shop("sqlite:///shop.db").connected() as app:
            store = app.open_store()
            (payment, _) = await store.consumers()
            for process, count in processes:
                alive = msgspec.structs.replace(process, expires_at=RealWorld().now() + 60_000_000)
                await store.beat(alive)
                if count:
                    taken = await store.claim(payment.id, alive, now=RealWorld().now(), most=count)
                    assert len(taken.progress) == count
            for process, _ in processes:
                can = (payment.id,) if process.can else ()
                await store.beat(msgspec.structs.replace(process, can=can))

    asyncio.run(run())


def test_processes_that_share_a_consumer_are_shown_with_their_parts(log_file: Path, ensue_: Ensue) -> None:
    spread((node(here(), os.getpid(), seconds=50, can=(1,)), 10), (node("attic#1", 7, seconds=50, can=(1,)), 6))
    payment = consumers(ensue_)["take_payment"]
    assert (payment["owners"], payment["segments"], payment["unowned"]) == ([str(os.getpid()), "7@attic"], 16, [])
    assert [(one["host"], one["segments"]) for one in payment["owned"]] == [
        (os.uname().nodename, list(range(10))),
        ("attic", list(range(10, 16))),
    ]
    shown = ensue_("consumers").stdout.splitlines()[1].split("\t")[-1]
    assert shown == f"{os.getpid()} (10, hands over 2) 7@attic (6)"


def test_a_process_that_has_just_come_is_shown_with_what_it_is_about_to_get(log_file: Path, ensue_: Ensue) -> None:
    spread((node(here(), os.getpid(), seconds=50, can=(1,)), 16), (node("attic#1", 7, seconds=50, can=(1,)), 0))
    shown = ensue_("consumers").stdout.splitlines()[1].split("\t")[-1]
    assert shown == f"{os.getpid()} (16, hands over 8) 7@attic (0)"
    assert [one["hands_over"] for one in consumers(ensue_)["take_payment"]["owned"]] == [8, 0]


def test_one_that_stands_by_hands_over_all_it_has_to_one_that_can(log_file: Path, ensue_: Ensue) -> None:
    spread((node(here(), os.getpid(), seconds=50), 16), (node("attic#1", 7, seconds=50, can=(1,)), 0))
    assert [one["hands_over"] for one in consumers(ensue_)["take_payment"]["owned"]] == [16, 0]


def test_what_nobody_owns_is_shown_with_the_time_since_which_that_is_known(log_file: Path, ensue_: Ensue) -> None:
    died = node("attic#1", 7, seconds=-5, can=(1,))
    spread((died, 4), (node(here(), os.getpid(), seconds=50, can=(1,)), 12))
    payment = consumers(ensue_)["take_payment"]
    assert (payment["state"], payment["unowned"]) == ("running", [0, 1, 2, 3])
    assert payment["unowned_since"] == exact_time(died.expires_at)
    lines = ensue_("consumers").stdout.splitlines()
    assert lines[1].split("\t")[-1] == f"{os.getpid()} (12) nobody (4)"
    assert (
        lines[-1]
        == f"nobody owns 4 of 16 segments of take_payment (0, 1, 2, 3), at least since {exact_time(died.expires_at)}"
    )


def test_of_what_was_given_up_nobody_knows_since_when(log_file: Path, ensue_: Ensue) -> None:
    payment = consumers(ensue_)["take_payment"]
    assert (payment["owned"], payment["unowned"], payment["unowned_since"]) == ([], list(range(16)), None)


def test_two_that_run_come_to_own_half_of_it_each(folder: Path, ensue_: Ensue) -> None:
    async def run() -> None:
        async with shop("sqlite:///shop.db"), shop("sqlite:///shop.db"):

            async def halves() -> bool:
                payment = (await asyncio.to_thread(consumers, ensue_))["take_payment"]
                return [len(one["segments"]) for one in payment["owned"]] == [8, 8] and not payment["unowned"]

            await until(halves)

    asyncio.run(run())


# --------------------------------------------------------------------------------------------------- pause, resume


def in_a_running_shop(work: Callable[[Any], Awaitable[None]]) -> None:
    async def run() -> None:
        async with shop("sqlite:///shop.db") as app:
            await work(app)

    asyncio.run(run())


def test_a_running_application_obeys_pause_and_resume(folder: Path, ensue_: Ensue) -> None:
    async def work(app: Any) -> None:
        store = app.open_store()

        async def status(word: str, *arguments: str) -> None:
            result = await asyncio.to_thread(ensue_, "consumers", word, "take_payment", *arguments)
            assert result.exit_code == 0, result.output

        async def handled() -> bool:
            return len([one async for one in app.log.read()]) == 4

        await status("pause", "--reason", "the bank is down")
        (payment, _) = await store.consumers()
        assert (payment.status, payment.reason) == ("paused", "the bank is down")
        await app.publish(OrderPlaced(order_id="o1", customer="anna", total=Decimal(1)))
        await status("resume")
        await until(handled)

    in_a_running_shop(work)


def test_a_paused_consumer_says_so_with_the_reason(log_file: Path, ensue_: Ensue) -> None:
    assert ensue_("consumers", "pause", "ship", "--reason", "stock-taking").exit_code == 0
    assert consumers(ensue_)["ship"]["state"] == "paused"
    assert "ship is paused: stock-taking" in ensue_("consumers").stdout


def test_resume_of_one_that_is_not_paused_is_a_no(log_file: Path, ensue_: Ensue) -> None:
    result = ensue_("consumers", "resume", "ship")
    assert result.exit_code == 1
    assert "ship is active already" in result.stderr


def test_a_retired_consumer_is_shown_only_when_asked_for(log_file: Path, ensue_: Ensue) -> None:
    assert ensue_("consumers", "retire", "ship").exit_code == 0
    assert list(consumers(ensue_)) == ["take_payment"]
    assert consumers(ensue_, "--all")["ship"]["state"] == "retired"


def test_a_consumer_that_runs_is_not_retired(folder: Path, ensue_: Ensue) -> None:
    async def work(app: Any) -> None:
        result = await asyncio.to_thread(ensue_, "consumers", "retire", "ship")
        assert result.exit_code == 1
        assert "take its handler out of the code and stop that first" in result.stderr

    in_a_running_shop(work)


def test_a_tripped_consumer_that_runs_is_left_to_its_probes(folder: Path, ensue_: Ensue) -> None:
    async def work(app: Any) -> None:
        (payment, _) = await app.open_store().consumers()
        await app.open_store().set_status(payment.id, "tripped", "20 keys in a row failed")
        result = await asyncio.to_thread(ensue_, "consumers", "resume", "take_payment")
        assert result.exit_code == 1
        assert "probes by itself until one event succeeds" in result.stderr

    in_a_running_shop(work)


@pytest.mark.parametrize("word", ["pause", "resume", "retire"])
def test_a_name_that_no_consumer_has_is_wrong_usage_and_lists_them(log_file: Path, ensue_: Ensue, word: str) -> None:
    result = ensue_("consumers", word, "shipp")
    assert result.exit_code == 2
    assert "no consumer of sqlite:///shop.db is called 'shipp'; there are: take_payment, ship" in result.stderr
