"""What a running application says of trouble that all its consumers have at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ensue.cli.teller import AGAIN_SECONDS, HELD_SECONDS, NEWS_SECONDS, Teller
from ensue.observe.signals import (
    ChannelConnected,
    ChannelLost,
    EventParked,
    SegmentsClaimed,
    SegmentsLost,
    Signal,
    ViewBuilt,
    ViewShown,
    WriterTrouble,
)
from ensue.world import RealWorld

CONSUMERS = ("pay", "ship")


class SetWorld(RealWorld):
    """Its time goes on when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._due: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.seconds

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        self._due.append((self.seconds + seconds, callback))
        return super().call_later(3600, callback)

    def wait(self, seconds: float) -> None:
        """So much time passes."""
        end = self.seconds + seconds
        while due := sorted((each for each in self._due if each[0] <= end), key=lambda each: each[0]):
            self._due.remove(due[0])
            self.seconds = due[0][0]
            due[0][1]()
        self.seconds = end


def trouble(consumer: str, attempted: str = "read events", found: str = "the server cannot be reached") -> Signal:
    return WriterTrouble(consumer=consumer, error=f"could not {attempted}: {found}", retry_in_seconds=1.0)


def said(story: Callable[[Teller, SetWorld], None], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines, without their times."""

    async def told() -> None:
        world = SetWorld()
        teller = Teller(world)
        story(teller, world)
        teller.line("", "the end")

    asyncio.run(told())
    return [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines()[:-1]]


def test_a_trouble_of_all_consumers_is_told_once_and_again_after_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    def story(teller: Teller, world: SetWorld) -> None:
        for seconds in (0.0, AGAIN_SECONDS / 2, AGAIN_SECONDS):
            world.seconds = seconds
            for consumer in CONSUMERS:
                teller.signal(trouble(consumer, attempted=f"do something for {consumer}"))

    lines = said(story, capsys)
    assert lines == ["could not do something for pay: the server cannot be reached; it is tried until it succeeds"] * 2


def test_another_trouble_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    def story(teller: Teller, world: SetWorld) -> None:
        teller.signal(trouble("pay"))
        teller.signal(trouble("pay", found="the disk is full"))

    assert [line.partition(";")[0] for line in said(story, capsys)] == [
        "could not read events: the server cannot be reached",
        "could not read events: the disk is full",
    ]


def test_the_end_of_a_trouble_is_told_and_the_next_one_is_news(capsys: pytest.CaptureFixture[str]) -> None:
    def story(teller: Teller, world: SetWorld) -> None:
        for _ in range(2):
            teller.signal(trouble("pay"))
            for consumer in CONSUMERS:
                teller.signal(SegmentsClaimed(consumer=consumer, segments=(1,)))

    lines = said(story, capsys)
    assert [line for line in lines if "could not" not in line] == ["the log answers again"] * 2
    assert len(lines) == 4


def test_what_consumers_lose_for_one_reason_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def story(teller: Teller, world: SetWorld) -> None:
        for consumer in CONSUMERS:
            teller.signal(SegmentsLost(consumer=consumer, segments=(1, 2, 3), reason="the lease ran out"))
        teller.signal(SegmentsLost(consumer="pay", segments=(4,), reason="another process owns it now"))

    assert said(story, capsys) == [
        "pay, ship lost 6 segments: the lease ran out",
        "pay lost 1 segment: another process owns it now",
    ]


def test_a_loss_is_told_though_nothing_else_happens(capsys: pytest.CaptureFixture[str]) -> None:
    async def story() -> None:
        told = asyncio.Event()

        class Listening(Teller):
            def worded(self, style: str, text: str) -> str:
                told.set()
                return super().worded(style, text)

        Listening().signal(SegmentsLost(consumer="pay", segments=(1,), reason="the lease ran out"))
        await asyncio.wait_for(told.wait(), 10)

    asyncio.run(story())
    assert "pay lost 1 segment: the lease ran out" in capsys.readouterr().err


def lost(consumer: str, error: str = "the broker shuts down") -> Signal:
    return ChannelLost(consumer=consumer, channel="orders", error=error, retry_in_seconds=1.0)


def test_a_broker_that_is_lost_and_found_is_told_once_each_for_all_consumers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def story(teller: Teller, world: SetWorld) -> None:
        for _ in range(8):
            for consumer in CONSUMERS:
                teller.signal(lost(consumer))
            world.wait(NEWS_SECONDS)
        for consumer in CONSUMERS:
            teller.signal(ChannelConnected(consumer=consumer, channel="orders"))
        world.wait(2 * HELD_SECONDS)

    assert said(story, capsys) == [
        "pay, ship: the broker shuts down (it is tried again, and nothing is lost)",
        "pay, ship: connected",
    ]


def test_another_reason_is_told_while_a_broker_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    def story(teller: Teller, world: SetWorld) -> None:
        teller.signal(lost("pay"))
        for _ in range(4):
            world.wait(NEWS_SECONDS)
            teller.signal(lost("pay", "the password is wrong"))

    assert [line.partition(" (")[0] for line in said(story, capsys)] == [
        "pay: the broker shuts down",
        "pay: the password is wrong",
    ]


def test_a_connection_that_does_not_hold_is_not_told_to_be_back(capsys: pytest.CaptureFixture[str]) -> None:
    def story(teller: Teller, world: SetWorld) -> None:
        for _ in range(4):
            teller.signal(lost("pay", "the queue is gone"))
            teller.signal(ChannelConnected(consumer="pay", channel="orders"))
            world.wait(HELD_SECONDS / 2)

    assert [line.partition(" (")[0] for line in said(story, capsys)] == ["pay: the queue is gone"]


def test_a_connection_at_first_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    def story(teller: Teller, world: SetWorld) -> None:
        teller.signal(ChannelConnected(consumer="pay", channel="orders"))
        world.wait(2 * HELD_SECONDS)

    assert said(story, capsys) == []


@pytest.mark.parametrize(("key", "waits"), [("#5", False), ("order_id=o1", True)])
def test_a_key_is_told_to_wait_where_there_is_one(key: str, waits: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def story(teller: Teller, world: SetWorld) -> None:
        teller.signal(EventParked(consumer="pay", position=5, key=key, attempt=1, error="ValueError: no"))

    (line,) = said(story, capsys)
    assert ("its key waits" in line, key in line) == (waits, waits)


def test_a_version_of_a_view_is_told_when_it_is_built_and_when_readers_see_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def story(teller: Teller, world: SetWorld) -> None:
        for version, seconds, reason in (
            (1, 0.1, None),
            (1, 90.0, None),
            (2, 0.1, None),
            (3, 0.1, "was built in part"),
        ):
            name = f"view.orders.v{version}"
            teller.signal(ViewBuilt(consumer=name, version=version, position=9, seconds=seconds, reason=reason))
            teller.signal(ViewShown(consumer=name, version=version))

    assert said(story, capsys) == [
        "view.orders.v1 is built, in 1.5 min",
        "view.orders.v2 is built, in 100 ms",
        "readers see view.orders.v2 now",
        "view.orders.v3 was built in part",
        "readers see view.orders.v3 now",
    ]
