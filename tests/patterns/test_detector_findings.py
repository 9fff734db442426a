"""Windows, joins and corrections in an application; and what is refused when a handler is registered."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ensue import App, Channel, Event, days, minutes, seconds
from ensue.errors import DefinitionError
from ensue.events.registry import declaration
from ensue.patterns import Late, Pattern, TimedOut, Window, Withdrawn, absent, count, distinct, first, one, total
from ensue.patterns.joins import Join, left, right
from tests.patterns.test_detector import Seen, application, check_whole

BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Sold(Event, key="shop", time="at"):
    shop: str
    at: datetime
    price: Decimal = Decimal(1)


class Returned(Event, key="shop", time="at"):
    shop: str
    at: datetime


def sold(second: int, price: str = "1", shop: str = "s") -> Sold:
    return Sold(shop=shop, at=BEGAN + timedelta(seconds=second), price=Decimal(price))


def returned(second: int, shop: str = "s") -> Returned:
    return Returned(shop=shop, at=BEGAN + timedelta(seconds=second))


class PerMinute(Window, size=minutes(1), lateness=minutes(1)):
    sales = count(Sold)
    money = total(Sold, lambda sale: sale.price)
    prices = distinct(Sold, lambda sale: sale.price)
    earliest = first(Sold, lambda sale: sale.at)


class TakenBack(Join, within=minutes(5), disorder=seconds(1)):
    sale = left(Sold)
    back = right(Returned)


class Kept(Pattern, within=minutes(1), disorder=seconds(1), lateness=minutes(5)):
    sale = one(Sold)
    back = absent(Returned)


def test_a_window_goes_on_through_a_restart_and_is_given_again_when_it_is_corrected(tmp_path: Path) -> None:
    seen, url = Seen(), f"sqlite:///{tmp_path}/sales.db"

    async def run() -> None:
        async with application(seen, PerMinute, url=url) as app:
            await (await app.publish(sold(0, "1.50"), sold(10, "2.25"))).wait()
        async with application(seen, PerMinute, url=url) as app:
            await app.publish(sold(70, "5"))
            (window, *_) = await seen.of(1)
            await app.publish(sold(20, "0.25"))
            again = next(one for one in await seen.of(2) if one.start == window.start and one.id != window.id)
        assert (window.key, window.sales, window.money) == ("s", 2, Decimal("3.75"))
        assert (window.start, window.end, window.final) == (BEGAN, BEGAN + minutes(1), True)
        assert set(window.prices) == {Decimal("1.50"), Decimal("2.25")}
        assert window.earliest == BEGAN
        assert (again.sales, again.money, again.replaces) == (3, Decimal("4.00"), (window.id,))
        await check_whole(app)

    asyncio.run(run())


def test_the_two_events_of_a_join_are_handled_together(tmp_path: Path) -> None:
    seen, url = Seen(), f"sqlite:///{tmp_path}/sales.db"

    async def run() -> None:
        async with application(seen, TakenBack, url=url) as app:
            await (await app.publish(sold(0, "7"))).wait()
        async with application(seen, TakenBack, url=url) as app:
            await app.publish(returned(100), sold(110, shop="other"))
            (pair,) = await seen.of(1)
            (stored,) = [one async for one in app.log.read() if one.type_name == "TakenBack"]
            assert stored.cause == 2
        assert (pair.sale, pair.back) == (sold(0, "7"), returned(100))
        await check_whole(app)

    asyncio.run(run())


def test_a_match_is_withdrawn_when_an_event_that_came_late_denies_it(tmp_path: Path) -> None:
    kept, gone = Seen(), Seen()
    app = application(kept, Kept, url=f"sqlite:///{tmp_path}/sales.db")

    @app.on
    def undo(withdrawn: Withdrawn[Kept]) -> None:
        gone.append(withdrawn)

    async def run() -> None:
        async with app:
            await app.publish(sold(0, "9"), sold(200, shop="other"))
            (match, *_) = await kept.of(1)
            await app.publish(returned(30))
            (undone,) = await gone.of(1)
        assert undone.match == match
        assert undone.because == returned(30)
        await check_whole(app)

    asyncio.run(run())


telemetry = Channel("telemetry", Sold)


class OfTheLog(Pattern, within=minutes(1)):
    sale = one(Sold)
    back = one(Returned)


def of_a_channel(match: OfTheLog) -> None: ...
def of_nothing(out: TimedOut[Any]) -> None: ...
def withdrawn_of_what_is_certain(gone: Withdrawn[OfTheLog]) -> None: ...
def beside_an_event(sale: Sold, match: OfTheLog) -> None: ...


def test_what_no_handler_can_be_given_is_refused_where_it_is_registered() -> None:
    app = App("sales")
    with pytest.raises(DefinitionError, match=r"put the channel into the application's inbox"):
        app.on(source=telemetry)(of_a_channel)
    with pytest.raises(DefinitionError, match="TimedOut is of one pattern"):
        app.on(of_nothing)
    with pytest.raises(DefinitionError, match="say lateness= on it"):
        app.on(withdrawn_of_what_is_certain)
    with pytest.raises(DefinitionError, match="'match' is a OfTheLog"):
        app.on(beside_an_event)


def test_late_events_are_asked_for_only_where_something_can_miss_them() -> None:
    app = App("sales")

    @app.on
    def late(sale: Late[Sold]) -> None: ...

    @app.on
    def matched(match: OfTheLog) -> None: ...

    with pytest.raises(DefinitionError, match="none of them is ever late"):
        _ = app.handlers


def named(name: str) -> type[Pattern]:
    class Wanted(Pattern, within=minutes(1), name=name):
        sale = one(Sold)

    return Wanted


def test_two_patterns_of_one_name_are_refused() -> None:
    other = application(Seen(), named("Sale"))

    def handle(match: Any) -> None: ...

    handle.__annotations__["match"] = named("Sale")
    other.on(handle)
    with pytest.raises(DefinitionError, match="two patterns are called 'Sale'"):
        _ = other.handlers


def test_a_handler_may_take_several_patterns_and_events_beside_them(tmp_path: Path) -> None:
    seen, app = Seen(), App("sales", url=f"sqlite:///{tmp_path}/sales.db")

    @app.on
    def anything(found: OfTheLog | TimedOut[OfTheLog] | Returned) -> None:
        seen.append(type(found).__name__)

    async def run() -> None:
        async with app:
            await (await app.publish(sold(0), returned(1))).wait()
        assert seen == ["Returned", "OfTheLog"]

    asyncio.run(run())


class Seen30Days(Event, key="shop", retention=days(30)):
    shop: str


class Twice(Pattern, within=minutes(1)):
    sale = one(Sold)
    seen = one(Seen30Days)


def test_a_match_is_wanted_no_longer_than_the_events_that_it_holds() -> None:
    app = application(Seen(), Twice)
    stored = next(one for handler in app.handlers for one in handler.events if one.__name__ == "Twice")
    assert declaration(stored).retention == days(30)
