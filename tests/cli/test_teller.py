"""What a running application says of trouble that all its consumers have at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ensue.cli.teller import AGAIN_SECONDS, Teller
from ensue.observe.signals import SegmentsClaimed, SegmentsLost, Signal, WriterTrouble
from ensue.world import RealWorld

CONSUMERS = ("pay", "ship")


class SetWorld(RealWorld):
    """Its time goes on when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


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
