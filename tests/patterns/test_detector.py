"""Patterns in an application: what is found is handled like an event, and everything that is said of a detector holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ensue import FORGOTTEN, App, Event, Personal
from ensue.consumers.verify import verify
from ensue.errors import InvalidEvent
from ensue.events.stored import Draft, Meta, encode_meta, tag_hash
from ensue.patterns import Late, Pattern, TimedOut, absent, one, several
from ensue.patterns.detection import detector
from ensue.patterns.detection.detector import Detector
from ensue.patterns.finding import find
from ensue.store.base import DeadLetter, Page, Request, Selection, Written
from ensue.store.memory import MemoryStore
from ensue.world import RealWorld

SOON = timedelta(milliseconds=80)


class Paid(Event, key="card", tags=("shop",)):
    card: str
    amount: int
    shop: str = "s"


class Closed(Event, key="card", closes=True):
    card: str


class Measured(Event, key="sensor", time="at"):
    sensor: str
    at: datetime
    value: int = 0


class Probed(Pattern, within=timedelta(hours=1)):
    probe = one(Paid, lambda p: p.amount < 2)
    large = several(Paid, lambda p: p.amount > 200, times=2)


class Quiet(Pattern, within=SOON):
    last = one(Paid)
    none = absent(Paid)


class Refunded(Pattern, within=SOON):
    paid = one(Paid)
    back = one(Paid, lambda p: p.amount < 0)


def paid(*amounts: int, card: str = "c") -> list[Paid]:
    return [Paid(card=card, amount=amount) for amount in amounts]


class Seen(list[Any]):
    """What handlers were given, and waiting for it."""

    async def of(self, count: int) -> list[Any]:
        async with asyncio.timeout(30):
            while len(self) < count:
                await RealWorld().sleep(0.01)
        return list(self)


def application(seen: Seen, *patterns: type, start: Any = None, **options: Any) -> App:
    app = App("cards", **options)
    for pattern in patterns:

        def handle(match: Any) -> None:
            seen.append(match)

        handle.__annotations__["match"] = pattern
        app.on(name=f"of_{pattern.__name__}", start=start)(handle)
    return app


async def letters(app: App) -> list[DeadLetter]:
    return [letter async for letter in app.dead_letters.list()]


async def check_whole(app: App) -> None:
    async with app.connected():
        assert (await verify(app.open_store(), RealWorld())).findings == ()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/cards.db"
    found: str = request.getfixturevalue("postgresql_url")
    return found


def test_a_match_goes_on_through_restarts_and_is_handled_once(url: str) -> None:
    seen = Seen()

    async def run() -> None:
        for events in (paid(1), paid(300), paid(301, 500)):
            app = application(seen, Probed, url=url)
            async with app:
                receipt = await app.publish(*events)
                await receipt.wait()
        (match,) = seen
        assert (match.key, match.probe.amount, [one.amount for one in match.large]) == ("c", 1, [300, 301])
        assert match.started < match.ended
        await check_whole(app)

    asyncio.run(run())


def test_silence_is_noticed_while_everything_is_silent(url: str) -> None:
    seen = Seen()

    async def run() -> None:
        app = application(seen, Quiet, url=url)
        async with app:
            await app.publish(*paid(1), *paid(2, card="d"))
            found = await seen.of(2)
        assert sorted(match.key for match in found) == ["c", "d"]
        assert all(match.ended - match.started == SOON for match in found)
        async with app:  # what was told stays told
            await (await app.publish(*paid(5))).wait()
            assert len(await seen.of(3)) == 3
        await check_whole(app)

    asyncio.run(run())


def test_silence_while_nobody_ran_is_noticed_at_the_next_start(tmp_path: Path) -> None:
    seen, url = Seen(), f"sqlite:///{tmp_path}/cards.db"

    async def run() -> None:
        async with application(seen, Quiet, url=url):
            pass
        async with App("cards", url=url).connected() as other:
            await other.publish(*paid(1))
        async with application(seen, Quiet, url=url):
            assert [match.last.amount for match in await seen.of(1)] == [1]

    asyncio.run(run())


def test_a_new_pattern_does_not_tell_of_a_silence_that_was_over_before(tmp_path: Path) -> None:
    seen, url = Seen(), f"sqlite:///{tmp_path}/cards.db"

    async def run() -> None:
        told = Seen()
        async with application(told, Quiet, url=url) as old:
            await old.publish(*paid(1), *paid(2, card="d"))
            await told.of(2)
        again = named_quiet()
        async with application(seen, again, url=url) as app:
            await app.publish(*paid(3, card="e"))
            assert [match.last.amount for match in await seen.of(1)] == [3]

    asyncio.run(run())


def named_quiet() -> type[Pattern]:
    class Quieter(Pattern, within=SOON):
        last = one(Paid)
        none = absent(Paid)

    return Quieter


def test_what_timed_out_is_handled_with_what_it_had_taken(tmp_path: Path) -> None:
    seen, app = Seen(), App("cards", url=f"sqlite:///{tmp_path}/cards.db")

    @app.on
    def stuck(out: TimedOut[Refunded]) -> None:
        seen.append(out)

    async def run() -> None:
        async with app:
            await app.publish(*paid(7))
            (out,) = await seen.of(1)
        assert (out.waiting_for, out.match.paid.amount, out.deadline - out.match.started) == ("back", 7, SOON)

    asyncio.run(run())


def test_a_log_in_memory_has_no_tables_for_it_and_finds_the_same_after_a_restart() -> None:
    seen, store = Seen(), MemoryStore()

    async def run() -> None:
        for events in (paid(1, 300), paid(301)):
            async with application(seen, Probed, store=store) as app:
                await (await app.publish(*events)).wait()
        assert len(seen) == 1

    asyncio.run(run())


class Ratio(Pattern, within=timedelta(hours=1)):
    first = one(Paid, lambda p: 100 // p.amount > 50)
    second = one(Paid, lambda p: p.amount > 200)


def test_a_condition_that_raises_makes_a_dead_letter_and_everything_else_goes_on(url: str) -> None:
    seen = Seen()

    async def run() -> None:
        async with application(seen, Ratio, url=url) as app:
            await (await app.publish(*paid(0), *paid(1), *paid(0, card="d"), *paid(300))).wait()
            assert [match.first.amount for match in seen] == [1]
            found = await letters(app)
            assert [letter.position for letter in found] == [1, 3]
            assert "Ratio" in found[0].reason and "ZeroDivisionError" in found[0].traceback
            with pytest.raises(InvalidEvent, match="finds what is in the log"):
                await app.dead_letters.retry(found[0].id, event=Paid(card="c", amount=1))
            await app.dead_letters.discard(found[0].id, note="nothing", by="ann")
            await (await app.publish(*paid(1), *paid(300))).wait()
            assert [match.first.amount for match in seen] == [1, 1]
            assert [letter.position for letter in await letters(app)] == [3]
        await check_whole(app)

    asyncio.run(run())


def mended(where: Callable[[Any], bool]) -> type[Pattern]:
    class Ratio(Pattern, within=timedelta(hours=1)):
        first = one(Paid, where)
        second = one(Paid, lambda p: p.amount > 200)

    return Ratio


def test_a_dead_letter_that_is_retried_is_looked_at_with_the_code_of_now(tmp_path: Path) -> None:
    seen, url = Seen(), f"sqlite:///{tmp_path}/cards.db"

    async def run() -> None:
        async with application(seen, Ratio, url=url) as app:
            await (await app.publish(*paid(0), *paid(300), *paid(1), *paid(400))).wait()
            assert [match.first.amount for match in seen] == [1]
        async with application(seen, mended(lambda p: p.amount < 2), url=url) as app:
            (letter,) = await letters(app)
            await app.dead_letters.retry(letter.id)
            found = await seen.of(2)
            assert [match.first.amount for match in found] == [1, 0], "what was found before is not told again"
            assert await letters(app) == []
        await check_whole(app)

    asyncio.run(run())


def raw(payload: bytes, world: RealWorld, name: str = "Paid") -> Draft:
    id = world.new_id()
    meta = encode_meta(Meta(world.now(), id, key="card=c"))
    return Draft(id, name, 1, tag_hash("card=c"), (), meta, payload)


def test_an_event_that_cannot_be_read_is_a_dead_letter_and_is_passed_over(tmp_path: Path) -> None:
    seen = Seen()

    async def run() -> None:
        async with application(seen, Probed, url=f"sqlite:///{tmp_path}/cards.db") as app:
            await app.publish(*paid(1))
            await app.open_store().write(Request(events=(raw(b'{"card":"c","amount":"x"}', RealWorld()),)))
            await (await app.publish(*paid(300, 301))).wait()
            assert len(seen) == 1
            (letter,) = await letters(app)
            assert (letter.position, letter.key_text) == (2, "event #2")
            assert "cannot be read" in letter.reason
        await check_whole(app)

    asyncio.run(run())


def changed(limit: int) -> type[Pattern]:
    class Pair(Pattern, within=timedelta(hours=1)):
        small = one(Paid, lambda p: p.amount < limit)
        large = one(Paid, lambda p: p.amount > 200)

    return Pair


def test_a_changed_pattern_goes_on_with_what_began_before_and_tells_nothing_of_before(tmp_path: Path) -> None:
    before, after, url = Seen(), Seen(), f"sqlite:///{tmp_path}/cards.db"

    async def run() -> None:
        async with application(before, changed(5), url=url) as app:
            await (await app.publish(*paid(3), *paid(300), *paid(8), *paid(50, card="d"))).wait()
        async with application(after, changed(60), url=url) as app:
            await (await app.publish(*paid(400, card="d"))).wait()
        assert [match.small.amount for match in before] == [3]
        assert [match.small.amount for match in after] == [50]
        await check_whole(app)

    asyncio.run(run())


@pytest.mark.parametrize(("start", "amounts"), [(None, [9]), ("beginning", [1, 9])])
def test_a_new_pattern_begins_warm_at_the_end_or_where_a_handler_says(
    start: Any, amounts: list[int], tmp_path: Path
) -> None:
    seen, url = Seen(), f"sqlite:///{tmp_path}/cards.db"

    async def run() -> None:
        async with App("cards", url=url).connected() as old:
            await old.publish(*paid(1), *paid(300), *paid(9))
        app = application(seen, changed(10), url=url, start=start)
        async with app:
            await (await app.publish(*paid(400))).wait()
            assert sorted(match.small.amount for match in await seen.of(len(amounts))) == amounts

    asyncio.run(run())


class Rising(Pattern, within=timedelta(minutes=5), disorder=timedelta(seconds=30)):
    low = one(Measured, lambda m: m.value < 10)
    high = one(Measured, lambda m: m.value > 90)


def measured(value: int, second: int, sensor: str = "s") -> Measured:
    return Measured(sensor=sensor, value=value, at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second))


def test_events_count_in_the_order_of_their_own_times_and_late_ones_are_told(tmp_path: Path) -> None:
    seen, missed = Seen(), Seen()
    app = application(seen, Rising, url=f"sqlite:///{tmp_path}/cards.db")

    @app.on
    def late(event: Late[Measured]) -> None:
        missed.append(event)

    async def run() -> None:
        async with app:
            await app.publish(measured(95, 20), measured(5, 10))
        async with app:
            await app.publish(measured(0, 100, "other"))
            (match,) = await seen.of(1)
            assert (match.low.value, match.high.value) == (5, 95)
            await app.publish(measured(1, 10))
            (event,) = await missed.of(1)
            assert (event.event.value, event.missed_by) == (1, "Rising")
            assert timedelta(seconds=60) <= event.by < timedelta(seconds=70)

    asyncio.run(run())


class Moved(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    street: Personal[str]


class MovedTwice(Pattern, within=timedelta(hours=1)):
    moves = several(Moved, times=2)


def holds(folder: Path, text: bytes) -> list[str]:
    return [file.name for file in folder.iterdir() if text in file.read_bytes()]


def test_personal_fields_are_sealed_in_a_match_and_forgotten_with_their_subject(tmp_path: Path) -> None:
    seen, url = Seen(), f"sqlite:///{tmp_path}/cards.db"

    async def run() -> None:
        async with application(seen, MovedTwice, url=url) as app:
            await app.publish(Moved(customer_id="c1", street="Secret Lane"))
        async with application(seen, MovedTwice, url=url) as app:
            await (await app.publish(Moved(customer_id="c1", street="Hidden Road"))).wait()
            assert [move.street for move in seen[0].moves] == ["Secret Lane", "Hidden Road"]
            await app.forget("customer_id", "c1")
        assert not holds(tmp_path, b"Secret Lane")
        again = application(Seen(), url=url)

        @again.on(start="beginning")
        def anew(match: MovedTwice) -> None:
            seen.append(match)

        async with again:
            await seen.of(2)
        assert [move.street for move in seen[1].moves] == [FORGOTTEN, FORGOTTEN]

    asyncio.run(run())


class QuietAfterAll(Pattern, within=SOON, key="card"):
    closed = one(Closed)
    none = absent(Paid)


def test_a_finding_goes_into_a_stream_that_is_closed(tmp_path: Path) -> None:
    seen = Seen()

    async def run() -> None:
        async with application(seen, QuietAfterAll, url=f"sqlite:///{tmp_path}/cards.db") as app:
            await app.publish(Closed(card="c"))
            assert [match.key for match in await seen.of(1)] == ["c"]

    asyncio.run(run())


def test_tenants_by_tag_have_matches_of_their_own(tmp_path: Path) -> None:
    seen, url = Seen(), f"sqlite:///{tmp_path}/cards.db"

    async def run() -> None:
        for amounts in ((1, 300), (301,)):
            async with application(seen, Probed, url=url, tenants="tag") as app:
                async with app.tenant("acme") as acme, app.tenant("best") as best:
                    await (await acme.publish(*paid(*amounts))).wait()
                    await (await best.publish(*paid(*[one + 1000 for one in amounts], card="c"))).wait()
                    waiting = await acme.patterns.going_on(Probed, "acme/c")
                    assert [one.waiting_for for one in waiting] == ["large"] * (len(amounts) == 2)
                    assert await best.patterns.going_on(Probed, "acme/c") == []
                    own = [one async for one in acme.log.read() if one.type_name == "Probed"]
                    assert [one.type_name async for one in best.log.read()].count("Probed") == 0
        assert [match.key for match in seen] == ["c"]
        assert len(own) == 1

    asyncio.run(run())


def test_matches_are_readable_as_events(tmp_path: Path) -> None:
    async def run() -> None:
        async with application(Seen(), Probed, url=f"sqlite:///{tmp_path}/cards.db") as app:
            await (await app.publish(*paid(1, 300, 301))).wait()
            (match,) = [one async for one in app.log.read() if one.type_name == "Probed"]
        assert match.key == "card=c"
        assert match.cause == 3
        stored = msgspec.json.decode(match.data)
        assert stored["steps"] == {"probe": 0, "large": [1, 2]}
        assert stored["taken"][2]["data"] == {"card": "c", "amount": 301, "shop": "s"}

    asyncio.run(run())


def test_what_came_behind_the_stored_state_is_taken_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, url = Seen(), f"sqlite:///{tmp_path}/cards.db"

    async def nothing(_detector: Detector) -> None:
        """A process that dies writes no state."""

    monkeypatch.setattr(detector, "SAVE_SECONDS", 3600.0)
    monkeypatch.setattr(Detector, "_release", nothing)

    async def run() -> None:
        for amounts in ((1,), (300,), (301, 1), (400,), (401,)):
            async with application(seen, Probed, url=url) as app:
                for amount in amounts:
                    await (await app.publish(*paid(amount))).wait()
        assert [[one.amount for one in match.large] for match in seen] == [[300, 301], [400, 401]]
        await check_whole(app)

    asyncio.run(run())


def test_a_large_state_is_written_some_keys_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, url = Seen(), f"sqlite:///{tmp_path}/cards.db"
    monkeypatch.setattr(detector, "KEYS_AT_ONCE", 3)
    cards = [f"c{number}" for number in range(10)]

    async def run() -> None:
        for amount in (1, 300, 301):
            async with application(seen, Probed, url=url) as app:
                await (await app.publish(*(Paid(card=card, amount=amount) for card in cards))).wait()
            async with app.connected():
                (facts,) = await app.patterns.list()
                assert facts.keys == (0 if amount == 301 else 10)
        assert sorted(match.key for match in seen) == cards
        await check_whole(app)

    asyncio.run(run())


def test_an_application_tells_what_is_going_on(url: str) -> None:
    async def run() -> None:
        app = application(Seen(), Probed, Refunded, url=url)
        async with app:
            await (await app.publish(*paid(1, 300), *paid(0, card="d"), *paid(50, card="e"))).wait()
        async with app.connected():
            facts = {one.name: one for one in await app.patterns.list()}
            probed = facts["Probed"]
            assert (probed.consumer, probed.status, probed.position, probed.behind) == (
                "pattern.Probed",
                "active",
                4,
                0,
            )
            assert (probed.keys, probed.events, probed.findings) == (2, 4, 0)
            assert probed.bytes
            assert probed.seconds
            found = await app.patterns.going_on(Probed)
            assert [(one.key, one.waiting_for) for one in found] == [("c", "large"), ("d", "large")]
            (one,) = await app.patterns.going_on("Probed", "c")
            assert one.match.probe.amount == 1
            assert one.deadline - one.started == timedelta(hours=1)
            assert await app.patterns.going_on(Probed, "e") == []
            with pytest.raises(ValueError, match="there are: Probed, Refunded"):
                await app.patterns.going_on("Other")

    asyncio.run(run())


class Lagging(MemoryStore):
    """A log of which this process does not see all for a while, as that of a server may be; what it writes is held against all."""

    seen: int | None = None
    refused = 0

    def head(self) -> int:
        return super().head() if self.seen is None else min(self.seen, super().head())

    async def read(
        self, selection: Selection = (), *, after: int = 0, before: int | None = None, limit: int = 1000,
        backwards: bool = False,
    ) -> Page:  # fmt: skip
        if self.seen is not None:
            before = min(before or self.seen + 1, self.seen + 1)
        return await super().read(selection, after=after, before=before, limit=limit, backwards=backwards)

    def write(self, request: Request) -> asyncio.Future[Written]:
        if request.conditions and request.commit is not None and self.seen is not None:
            self.seen, self.refused = None, self.refused + 1
        return super().write(request)


def test_silence_is_told_only_if_nothing_came_that_was_not_read_yet() -> None:
    seen, store = Seen(), Lagging()

    async def run() -> None:
        async with application(seen, Quiet, store=store) as app:
            await (await app.publish(*paid(1))).wait()
            store.seen = store.head()
            await app.publish(*paid(2))
            assert [match.last.amount for match in await seen.of(1)] == [2]
            assert store.refused == 1

    asyncio.run(run())


def test_a_match_that_is_too_large_for_an_event_is_a_dead_letter(tmp_path: Path) -> None:
    seen = Seen()

    async def run() -> None:
        async with application(seen, Probed, url=f"sqlite:///{tmp_path}/cards.db", payload_bytes=300) as app:
            await (await app.publish(*paid(1, 300, 301), *paid(300, card="d"))).wait()
            (letter,) = await letters(app)
            assert (letter.position, seen) == (3, [])
            assert "the limit is 300" in letter.reason
        await check_whole(app)

    asyncio.run(run())


class ByReading(Pattern, within=timedelta(hours=1), time="processing"):
    small = one(Paid, lambda p: p.amount < 2)
    large = one(Paid, lambda p: p.amount > 200)


def test_a_pattern_by_the_time_of_reading_has_the_times_of_now(tmp_path: Path) -> None:
    seen, url = Seen(), f"sqlite:///{tmp_path}/cards.db"

    async def run() -> None:
        async with App("cards", url=url).connected() as old:
            await old.publish(*paid(1))
        async with application(seen, ByReading, url=url, start="beginning") as app:
            began = datetime.now(UTC)  # the machine's own, which the pattern is to have read
            await (await app.publish(*paid(300))).wait()
            (match,) = await seen.of(1)
        assert match.ended >= began - timedelta(seconds=1)

    asyncio.run(run())


class Ahead(RealWorld):
    """A machine whose clock is fast."""

    def now(self) -> int:
        return super().now() + 10_000_000


def test_what_a_fast_clock_tells_is_what_the_log_says(tmp_path: Path) -> None:
    seen, url = Seen(), f"sqlite:///{tmp_path}/cards.db"

    async def run() -> None:
        fast = application(seen, Quiet, url=url, world=Ahead())
        async with fast as app, App("cards", url=url).connected() as other:
            for count in (1, 2, 3):  # what it told was recorded by its clock, and so is all that comes behind it
                await other.publish(*paid(count))
                await seen.of(count)
            recorded = [one async for one in app.log.read(Paid)]
            ends = recorded[-1].recorded_at + timedelta(days=1)
            assert [match.id for match in find(Quiet, recorded, until=ends)] == [match.id for match in seen]

    asyncio.run(run())


class Shipped(Event, tags=("van",)):
    van: str | None


class TwoInAVan(Pattern, within=timedelta(hours=1), key="van"):
    parcels = several(Shipped, times=2)


def test_an_event_without_the_key_of_a_pattern_is_a_dead_letter_and_nothing_waits_for_it(tmp_path: Path) -> None:
    seen = Seen()

    async def run() -> None:
        async with application(seen, TwoInAVan, url=f"sqlite:///{tmp_path}/cards.db") as app:
            await app.publish(Shipped(van="v"))
            await (await app.publish(Shipped(van=None))).wait()
            await (await app.publish(Shipped(van="v"))).wait()
            assert [match.key for match in seen] == ["v"]
            (letter,) = await letters(app)
            assert (letter.position, letter.reason) == (
                2,
                "InvalidEvent: Shipped: van is None, so that it belongs to no key",
            )
            await app.dead_letters.discard(letter.id, note="lost")
            await (await app.publish(Shipped(van="w"))).wait()
            assert await letters(app) == []
        await check_whole(app)

    asyncio.run(run())
