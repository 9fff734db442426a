"""Bytewax: the sum of each key's values in windows of five minutes, in one process. Its own process for each measurement."""
# mypy: disable-error-code="untyped-decorator,no-untyped-call"

from __future__ import annotations

import json
import operator
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.testing import TestingSink, TestingSource, run_main

from bench.pattern_data import WINDOW, columns, digest, name_of_window

__all__ = ["main"]

BATCH = 10_000
START_OF_WINDOWS = datetime(2020, 1, 1, tzinfo=UTC)


class _Reading(NamedTuple):
    value: float
    at: datetime


def _add(total: float, reading: _Reading) -> float:
    return total + reading.value


def _standing_still() -> datetime:
    """Its watermark goes on with the clock, also while it is busy: events would be late that are not."""
    return START_OF_WINDOWS


def _never(at: datetime) -> None:
    """No window is closed by the clock."""


def main(count: int, rounds: int) -> None:
    of = columns("windows", count)
    events = [
        (key, _Reading(value, datetime.fromtimestamp(at / 1000, UTC)))
        for key, value, at in zip(of.key, of.value, of.time, strict=True)
    ]
    for number in range(rounds + 1):
        found: list[tuple[str, tuple[int, float]]] = []
        flow = Dataflow("sums")
        keyed = op.input("events", flow, TestingSource(events, BATCH))
        windows = fold_window(
            "sum",
            keyed,
            EventClock(operator.attrgetter("at"), timedelta(0), _standing_still, _never),
            TumblingWindower(timedelta(milliseconds=WINDOW), START_OF_WINDOWS),
            float,
            _add,
            operator.add,
            ordered=False,  # a sum does not care
        )
        op.output("found", windows.down, TestingSink(found))
        began = time.perf_counter()
        run_main(flow)
        seconds = time.perf_counter() - began
        first = int(START_OF_WINDOWS.timestamp() * 1000)
        names = [name_of_window(key, first + window * WINDOW, total) for key, (window, total) in found]
        print(
            json.dumps({"round": number, "per_second": count / seconds, "matches": len(names), "digest": digest(names)})
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
