"""Promises 3 and 5 as a user sees them: order for each key, and what one failing event, and many, do to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from ensue import ONE_ORDER, App, Context, Event, Retry
from ensue.observe.signals import ConsumerTripped, Signal
from tests.app.orders import until


class Moved(Event, key="account", tags=("bank",)):
    account: str
    number: int
    bank: str = "b"


def moved(*names: str) -> list[Moved]:
    """`moved("a1", "b1")`: number 1 of the account a, number 1 of the account b."""
    return [Moved(account=name[0], number=int(name[1:])) for name in names]


def running(app: App, work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with app:
            await work()

    asyncio.run(run())


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'bank.db'}"


@pytest.mark.parametrize(
    ("key", "begun"),
    [(None, ["a1", "b1", "c1"]), ("bank", ["a1"]), (ONE_ORDER, ["a1"])],
    ids=["its own key", "another tag", "one order"],
)
def test_events_of_a_key_follow_each_other_and_keys_go_beside_each_other(
    url: str, key: str | None, begun: list[str]
) -> None:
    app, started, together, go = App("bank", url=url), list[str](), list[str](), asyncio.Event()
    busy: set[str] = set()

    @app.on(key=key)
    async def book(event: Moved) -> None:
        about = event.account if key is None else "all"
        started.append(f"{event.account}{event.number}")
        together.extend(busy & {about})
        busy.add(about)
        await go.wait()
        busy.discard(about)

    async def work() -> None:
        receipt = await app.publish(*moved("a1", "a2", "b1", "c1", "b2", "a3"))
        await until(lambda: len(started) >= len(begun))
        assert sorted(started) == begun
        go.set()
        await receipt.wait()

    running(app, work)
    for account in "abc":
        assert [name for name in started if name[0] == account] == sorted(
            name for name in started if name[0] == account
        )
    assert len(started) == 6
    assert not together


def test_one_bad_event_stops_its_key_and_no_other(url: str) -> None:
    app, handled = App("bank", url=url), list[str]()

    @app.on(retry=Retry.never)
    async def book(event: Moved) -> None:
        if (event.account, event.number) == ("a", 2):
            raise LookupError("no such account")
        handled.append(f"{event.account}{event.number}")

    async def work() -> None:
        await app.publish(*moved("a1", "a2", "b1", "a3", "b2", "c1", "b3"))
        await until(lambda: len(handled) == 5)
        letters = [letter async for letter in app.dead_letters.list()]
        assert [(letter.key_text, letter.position) for letter in letters] == [("account=a", 2)]
        assert sorted(handled) == ["a1", "b1", "b2", "b3", "c1"]

    running(app, work)


def test_attempts_are_counted_on_over_a_restart(url: str) -> None:
    attempts: list[int] = []

    def application() -> App:
        app = App("bank", url=url)

        @app.on(retry=Retry(attempts=3, first=timedelta(milliseconds=300), jitter=False))
        async def book(event: Moved, ctx: Context) -> None:
            attempts.append(ctx.attempt)
            raise LookupError("no such account")

        return app

    first, second = application(), application()

    async def fail_once() -> None:
        await first.publish(*moved("a1"))
        await until(lambda: bool(attempts))

    async def go_on() -> None:
        async def given_up() -> bool:
            return [letter.attempts async for letter in second.dead_letters.list()] == [3]

        await until(given_up)

    running(first, fail_once)
    running(second, go_on)
    assert attempts == [1, 2, 3]


def test_when_many_keys_fail_the_consumer_stops_by_itself_and_goes_on_when_it_works_again(url: str) -> None:
    signals: list[Signal] = []
    app, handled, broken = App("bank", url=url, observe=signals.append), set[str](), [True]

    @app.on(retry=Retry.never, concurrency=1)
    async def book(event: Moved) -> None:
        if broken[0]:
            raise ConnectionError("the bank is closed")
        handled.add(event.account)

    async def given_up() -> set[str]:
        return {letter.key_text.removeprefix("account=") async for letter in app.dead_letters.list()}

    async def all_are_accounted_for() -> bool:
        return len(handled | await given_up()) == 60

    async def work() -> None:
        await app.publish(*(Moved(account=f"k{number}", number=1) for number in range(60)))
        await until(lambda: any(isinstance(signal, ConsumerTripped) for signal in signals))
        broken[0] = False
        await until(all_are_accounted_for)
        assert len(await given_up()) <= 20, "an outage must not give up every key"
        assert not handled & await given_up()

    running(app, work)
