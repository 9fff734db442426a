"""Views of events that are read as several, or are in an archive: rows are the same as if nothing had happened."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensue import App, Command, Event, Fields, State, View, upcast
from ensue.app import open_store
from ensue.consumers.archiving import archive_closed
from ensue.errors import OutcomeUnknown
from ensue.events.registry import Registry
from ensue.store.base import Request
from ensue.testing import AppSimulation, simulate
from ensue.world import RealWorld
from tests.events.declared import define


class Taken(Event, key="purse_id"):
    purse_id: str
    amount: int


class Given(Event, key="purse_id"):
    purse_id: str
    amount: int


class PurseClosed(Event, key="purse_id", closes=True):
    purse_id: str


class Look(Command[None]):
    purse_id: str
    amount: int


CoinsSent = define(
    "CoinsSent", {"source": str, "target": str, "amount": int}, key={"source": "purse_id"}, tags={"target": "purse_id"}
)


@upcast("CoinsSent", version=1)
def split(old: Fields) -> Iterator[Taken | Given]:
    yield Taken(purse_id=old["source"], amount=old["amount"])
    yield Given(purse_id=old["target"], amount=old["amount"])


class Purse(View, key="purse_id"):
    purse_id: str
    coins: int = 0

    def evolve(self, event: Taken | Given) -> Purse:
        self.coins += event.amount if isinstance(event, Given) else -event.amount
        return self


class PurseState(State, key="purse_id"):
    coins: int = 0

    def evolve(self, event: Taken | Given) -> PurseState:
        self.coins += event.amount if isinstance(event, Given) else -event.amount
        return self


def sent(source: str, target: str, amount: int) -> Event:
    fields: dict[str, Any] = {"source": source, "target": target, "amount": amount}
    return CoinsSent(**fields)


def purses(url: str, when: Literal["after", "inline", "live"] = "after", **more: Any) -> App:
    app = App("purses", url=url, **more)
    if when == "after":
        app.view(Purse)
    else:
        app.view(when=when)(Purse)

    @app.command
    def look(command: Look, purse: PurseState) -> None:
        assert purse.coins == command.amount, (command.purse_id, purse.coins, command.amount)

    return app


def by_hand(events: list[Event]) -> dict[str, int]:
    coins: dict[str, int] = {}
    for event in events:
        fields: Any = event
        if isinstance(event, CoinsSent):
            coins[fields.source] = coins.get(fields.source, 0) - fields.amount
            coins[fields.target] = coins.get(fields.target, 0) + fields.amount
        elif isinstance(event, Taken | Given):
            coins[event.purse_id] = coins.get(event.purse_id, 0) + (
                event.amount if isinstance(event, Given) else -event.amount
            )
    return coins


async def check(app: App, events: list[Event]) -> None:
    head = await app.log.head()
    for purse, coins in by_hand(events).items():
        row = await app.get(Purse, purse, after=head)
        assert row is not None
        assert row.coins == coins, purse
        await app.send(Look(purse_id=purse, amount=coins))


names = st.sampled_from("abc")
amounts = st.integers(1, 99)
histories = st.lists(
    st.builds(sent, names, names, amounts)
    | st.builds(lambda name, amount: Taken(purse_id=name, amount=amount), names, amounts)
    | st.builds(lambda name, amount: Given(purse_id=name, amount=amount), names, amounts),
    max_size=25,
)


@pytest.mark.parametrize("when", ["after", "inline", "live"])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(old=histories, new=st.lists(st.builds(lambda name: Given(purse_id=name, amount=1), names), max_size=4))
def test_views_and_states_of_a_type_that_became_others_are_what_the_split_by_hand_says(
    tmp_path_factory: pytest.TempPathFactory,
    when: Literal["after", "inline", "live"],
    old: list[Event],
    new: list[Event],
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('purses')}/log.db"

    async def work() -> None:
        async with asyncio.timeout(60):
            async with App("old", url=url).connected() as app:
                for event in old:
                    await app.publish(event)
            async with purses(url, when) as app:
                await check(app, old)
                for event in new:
                    await app.publish(event)
                await check(app, [*old, *new])

    asyncio.run(work())


@pytest.mark.parametrize("when", ["after", "inline", "live"])
def test_a_view_that_is_built_anew_reads_what_is_in_an_archive(
    shared_url: str, tmp_path: Path, when: Literal["after", "inline", "live"]
) -> None:
    if when == "inline" and "writers=many" in shared_url:
        when = "after"  # inline views need one order of commits
    events: list[Event] = [Given(purse_id="ab"[number % 2], amount=number) for number in range(30)]
    file = tmp_path / "old.jsonl.gz"

    async def work() -> None:
        async with asyncio.timeout(60):
            async with App("old", url=shared_url).connected() as app:
                await app.publish(*events, PurseClosed(purse_id="a"))
            store = open_store(shared_url)
            await store.open(RealWorld())
            assert (await archive_closed(store, RealWorld(), file, closing=["PurseClosed"])).events == 16
            await store.close()
            async with purses(shared_url, when, archives=[file]) as app:
                await check(app, events)

    asyncio.run(work())


def test_a_view_that_lacks_the_archive_says_which_in_its_dead_letters(tmp_path: Path) -> None:
    url, file = f"sqlite:///{tmp_path}/log.db", tmp_path / "old.jsonl.gz"

    async def work() -> None:
        async with asyncio.timeout(60):
            async with App("old", url=url).connected() as app:
                await app.publish(
                    *(Given(purse_id="a", amount=number) for number in range(3)), PurseClosed(purse_id="a")
                )
            store = open_store(url)
            await store.open(RealWorld())
            await archive_closed(store, RealWorld(), file, closing=["PurseClosed"])
            await store.close()
            async with purses(url) as app:
                await app.get(Purse, "a", after=await app.log.head())
                letters = [letter async for letter in app.dead_letters.list()]
                assert {letter.position for letter in letters} >= {1}
                assert all("is in the archive old.jsonl.gz" in letter.reason for letter in letters)
            async with purses(url, archives=[file]) as app:
                async for letter in app.dead_letters.list():
                    await app.dead_letters.retry(letter.id)
                head = await app.log.head()
                async with asyncio.timeout(20):
                    while (row := await app.get(Purse, "a", after=head)) is None or row.coins != 3:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)

    asyncio.run(work())


# ----------------------------------------------------------------------------------------------------------- simulation

ringing = App("ringing")


class Rung(Event, key="purse_id"):
    purse_id: str
    amount: int


@ringing.on(start="beginning")
async def ring(event: Taken | Given) -> Rung:
    return Rung(purse_id=event.purse_id, amount=event.amount if isinstance(event, Given) else -event.amount)


@ringing.on(start="beginning", pure=True)
def count(event: Given) -> None: ...


@simulate(ringing, crashes="everywhere", runs=10)
async def test_parts_are_handled_once_and_in_order_wherever_the_process_dies(sim: AppSimulation) -> None:
    async def write_old(app: App) -> None:
        registry = Registry([CoinsSent])
        drafts = [
            registry.draft(
                sent("ab"[number % 2], "ba"[number % 2], number + 1), id=bytes([number + 1]) * 16, time=number
            )
            for number in range(4)
        ]
        request = Request(events=drafts, idempotency_key=b"o" * 16, fingerprint=b"f" * 16)
        while True:
            try:
                await app.open_store().write(request)
                return
            except OutcomeUnknown:
                continue

    await sim.inside(write_old)
    await sim.run_until_quiet()
    rung = [(event.purse_id, event.amount) for event in await sim.events(Rung)]
    expected = [
        pair for number in range(4) for pair in (("ab"[number % 2], -number - 1), ("ba"[number % 2], number + 1))
    ]
    assert sorted(rung) == sorted(expected)
    for position in (0, 2):
        assert rung[position][1] == -rung[position + 1][1], "the parts of one event are emitted together"
