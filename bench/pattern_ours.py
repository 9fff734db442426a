"""Our side of `make bench-patterns`: `python -m bench.pattern_ours ROW EVENTS ROUNDS [json=FILE]`, a process for each measurement.

Typed events are in memory, and beside each its time and position, as a reader of a log has them. The clock runs while an operator is
given them in batches, and while matches are made of what it found.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.pattern_data import columns, digest
from bench.pattern_rules import PATTERNS, CardUsed
from ensue.events.recorded import instant
from ensue.patterns import Pattern, find_in_json
from ensue.patterns.finding import END
from ensue.patterns.matches import match_of
from ensue.patterns.operator import Batch, Found
from ensue.patterns.operators import operator_of

__all__ = ["BATCH", "batches", "events_of", "find_all", "main", "say", "times_of"]

BATCH = 10_000
Events = tuple[list[CardUsed], list[int]]


def main(row: str, count: int, rounds: int, file: str | None) -> None:
    events, times = events_of(row, count)
    lines = Path(file).read_bytes().splitlines() if file else None
    for number in range(rounds + 1):
        gc.collect()
        began = time.perf_counter()
        found = _read_and_find(PATTERNS[row], lines) if lines is not None else find_all(PATTERNS[row], events, times)
        seconds = time.perf_counter() - began
        say(number, count / seconds, [times_of(match) for match in found])


def say(number: int, per_second: float, names: Sequence[Sequence[int]]) -> None:
    """One time's figure and what was found, for bench/patterns.py."""
    said = {"round": number, "per_second": per_second, "matches": len(names), "digest": digest(names)}
    print(json.dumps(said), flush=True)


def events_of(row: str, count: int) -> Events:
    """The events of a row, and their times in microseconds."""
    of = columns(row, count)
    events = [
        CardUsed(card=key, kind=kind, value=value, time=at)
        for key, kind, value, at in zip(of.key, of.kind, of.value, of.time, strict=True)
    ]
    return events, [at * 1000 for at in of.time]


def batches(events: list[CardUsed], times: list[int]) -> Iterator[Batch]:
    for at in range(0, len(events), BATCH):
        some = events[at : at + BATCH]
        yield Batch(events=some, times=times[at : at + BATCH], positions=range(at + 1, at + 1 + len(some)))


def find_all(pattern: type[Pattern], events: list[CardUsed], times: list[int]) -> list[Pattern]:
    """As the application does with a log, without the log: batch by batch, and a match of each thing found."""
    definition = pattern.__ensue_pattern__
    operator = operator_of(definition)
    found: list[Pattern] = []
    for batch in batches(events, times):
        found += [match_of(definition, one) for one in operator.take(batch) if isinstance(one, Found)]
    return found + [match_of(definition, one) for one in operator.advance(END) if isinstance(one, Found)]


def times_of(match: Pattern) -> list[int]:
    """The times of a match's events, in the order of its steps, in milliseconds."""
    steps = [step for name, step in vars(match).items() if name not in ("id", "key", "started", "ended")]
    events: list[CardUsed] = []
    for step in steps:
        if isinstance(step, CardUsed):
            events.append(step)
        elif step is not None:
            events.extend(step)
    return [event.time for event in events]


def _read_and_find(pattern: type[Pattern], lines: Sequence[bytes]) -> list[Pattern]:
    """The same from JSON: each event is bytes of its own, as a log or a channel has it."""
    return list(find_in_json(pattern, CardUsed, lines, time=lambda used: instant(used.time * 1000)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].removeprefix("json=") if sys.argv[4:] else None)
