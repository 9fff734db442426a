"""The temperature inside a machine, a reading each five minutes: silence, jumps, cold, and drift, and how early they told.

    Reading ──> Silence, Jump, Cold
       └──────> Hour (a window) ──> HourPassed ──> Drift

Thresholds are those of somebody who knows the machine (it runs at 70 to 100 degrees), not of somebody who knows the file.
Alarms are counted as episodes: one that comes within a day of the one before it, of the same kind, belongs to it. A known failure is
noticed if an episode of an alarm has an alarm in its span.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from ensue import Event, days, hours, minutes
from ensue.patterns import Pattern, Window, absent, count, one, several, total
from ensue.patterns.finding import find

__all__ = [
    "Alarm",
    "Cold",
    "Drift",
    "Hour",
    "HourPassed",
    "Jump",
    "Reading",
    "Report",
    "Silence",
    "Span",
    "alarms",
    "watch",
]

COOL, COLD, JUMP = 70.0, 50.0, 8.0
DISORDER = hours(1)
"""Local times: when summer time ends, an hour comes twice."""
EPISODE = days(1)


class Reading(Event, key="machine", time="at"):
    machine: str
    at: datetime
    celsius: float


class HourPassed(Event, key="machine", time="at"):
    """The mean of an hour. `at` is its end."""

    machine: str
    at: datetime
    mean: float


class Hour(Window, size=hours(1), disorder=DISORDER):
    readings = count(Reading)
    sum = total(Reading, lambda reading: reading.celsius)


class Silence(Pattern, disorder=DISORDER):
    """Nothing for half an hour."""

    last = one(Reading)
    nothing = absent(Reading, within=minutes(30))


class Jump(Pattern, within=minutes(15), disorder=DISORDER):
    """Two readings in a row that are too far apart for iron."""

    before = one(Reading)
    after = one(Reading, contiguity="strict")

    @after.where
    def far(self, reading: Reading) -> bool:
        return abs(reading.celsius - self.before.celsius) > JUMP


class Cold(Pattern, within=hours(1), skip="past_last", disorder=DISORDER):
    """Six readings in a row at which it cannot work."""

    readings = several(Reading, lambda reading: reading.celsius < COLD, times=6, inner="strict")


class Drift(Pattern, within=days(1), skip="past_last", disorder=DISORDER):
    """Half a day, hour after hour, below what it runs at."""

    cool = several(HourPassed, lambda hour: hour.mean < COOL, times=12, inner="strict")


class Alarm(msgspec.Struct, frozen=True):
    """Something that was noticed, and when it was."""

    kind: str
    at: datetime


class Span(msgspec.Struct, frozen=True):
    """A known failure."""

    begin: datetime
    end: datetime

    def __contains__(self, at: datetime) -> bool:
        return self.begin <= at <= self.end


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    readings: int
    alarms: dict[str, int]
    episodes: dict[str, int]
    failures: int
    failures_noticed: int
    episodes_in_failures: int
    episodes_elsewhere: int
    precision: float
    recall: float
    hours_before_the_end: list[float | None]
    """Of each known failure: how long before the end of its span the first alarm in it came."""


def alarms(readings: Sequence[Reading]) -> list[Alarm]:
    """All alarms, by time."""
    means = [
        HourPassed(machine=hour.key, at=hour.end, mean=hour.sum / hour.readings)
        for hour in find(Hour, readings)
        if hour.readings
    ]
    found = [Alarm("silence", match.ended) for match in find(Silence, readings)]
    found += [Alarm("jump", match.ended) for match in find(Jump, readings)]
    found += [Alarm("cold", match.ended) for match in find(Cold, readings)]
    found += [Alarm("drift", match.ended) for match in find(Drift, means)]
    return sorted(found, key=lambda alarm: (alarm.at, alarm.kind))


def watch(readings: Sequence[Reading], failures: Sequence[Span]) -> tuple[Report, list[Alarm]]:
    """Notice, and compare with what is known."""
    found = alarms(readings)
    kinds = ("silence", "jump", "cold", "drift")
    episodes = {kind: list(_episodes(alarm for alarm in found if alarm.kind == kind)) for kind in kinds}
    every = list(itertools.chain.from_iterable(episodes.values()))
    inside = [episode for episode in every if any(alarm.at in span for alarm in episode for span in failures)]
    firsts = [next((alarm.at for alarm in found if alarm.at in span), None) for span in failures]
    noticed = [at for at in firsts if at is not None]
    return Report(
        readings=len(readings),
        alarms={kind: sum(alarm.kind == kind for alarm in found) for kind in kinds},
        episodes={kind: len(episodes[kind]) for kind in kinds},
        failures=len(failures),
        failures_noticed=len(noticed),
        episodes_in_failures=len(inside),
        episodes_elsewhere=len(every) - len(inside),
        precision=round(len(inside) / len(every), 3) if every else 1.0,
        recall=round(len(noticed) / len(failures), 3) if failures else 1.0,
        hours_before_the_end=[
            None if at is None else round((span.end - at) / timedelta(hours=1), 1)
            for at, span in zip(firsts, failures, strict=True)
        ],
    ), found


def _episodes(alarms: Iterable[Alarm]) -> Iterable[list[Alarm]]:
    episode: list[Alarm] = []
    for alarm in alarms:
        if episode and alarm.at - episode[-1].at > EPISODE:
            yield episode
            episode = []
        episode.append(alarm)
    if episode:
        yield episode
