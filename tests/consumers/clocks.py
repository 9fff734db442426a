"""Events and helpers for tests of consumers: a clock ticks, and whoever hears it may ring."""

from __future__ import annotations

from ensue import Event
from ensue.testing import AppSimulation

__all__ = ["Rang", "Ticked", "rung", "said", "tick", "ticks"]


class Ticked(Event, key="clock_id", tags=("room_id",)):
    clock_id: str
    number: int
    room_id: str = "hall"


class Rang(Event, key="clock_id"):
    clock_id: str
    number: int


def tick(number: int, clock: str = "a", room: str = "hall") -> Ticked:
    return Ticked(clock_id=clock, number=number, room_id=room)


def ticks(count: int, clocks: str = "a") -> list[Ticked]:
    """So many ticks, the clocks in turn, each counting from 1."""
    return [tick(number // len(clocks) + 1, clocks[number % len(clocks)]) for number in range(count)]


async def rung(sim: AppSimulation, clock: str | None = None) -> list[int]:
    """The numbers that rang, in log order."""
    return [event.number for event in await sim.events(Rang) if clock is None or event.clock_id == clock]


def said(sim: AppSimulation, what: str) -> list[str]:
    """What the application said about itself so far that begins like this."""
    return [entry.what for entry in sim.surroundings.trace if entry.kind == "says" and entry.what.startswith(what)]
