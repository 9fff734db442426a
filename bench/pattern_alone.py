"""What is measured of patterns without a peer: `python -m bench.pattern_alone ROW SIDE EVENTS ROUNDS`, a process for each.

`columnar`: ten patterns over Arrow batches; the same over events in memory, one after another; the same where the batches become
events first. `rules`: a hundred patterns, or one. `snapshot`: with and without the state being made into bytes after each batch.
`memory`: bytes for each beginning that waits.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from bench.pattern_data import columns
from bench.pattern_ours import BATCH, batches, events_of, say, times_of
from bench.pattern_rules import PATTERNS, CardUsed, pair
from ensue.events.stored import Row
from ensue.patterns import Pattern
from ensue.patterns.columns.columnar import Columnar
from ensue.patterns.definition import Definition
from ensue.patterns.detection.state import pack
from ensue.patterns.finding import END
from ensue.patterns.matches import match_of
from ensue.patterns.operator import Batch, Found
from ensue.patterns.operators import operator_of
from ensue.patterns.sharing import PatternSet

__all__ = ["main"]

Done = tuple[float, list[Pattern]]
"""Seconds, and the matches."""


def main(row: str, side: str, count: int, rounds: int) -> None:
    if row == "memory":
        _say_memory(count)
        return
    work = _WORK[row, side](count)
    for number in range(rounds + 1):
        gc.collect()
        seconds, found = work()
        say(number, count / seconds, [times_of(match) for match in found])


# ----------------------------------------------------------------------------------------------------------- columnar


def _ten() -> list[type[Pattern]]:
    return [pair(first) for first in range(1, 21, 2)]


def _arrow(count: int) -> list[Any]:
    import pyarrow as pa

    of = columns("seq2", count)
    table = pa.table(
        {
            "card": pa.array(of.key),
            "kind": pa.array(of.kind, pa.int64()),
            "value": pa.array(of.value, pa.float64()),
            "time": pa.array(of.time, pa.int64()),
        }
    )
    return list(table.to_batches(max_chunksize=1 << 16))


def _times(table: Any) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    times: np.ndarray[tuple[int], np.dtype[np.int64]] = table.column("time").to_numpy() * 1000
    return times


def _in_columns(count: int) -> Callable[[], Done]:
    tables = _arrow(count)
    patterns = [one.__ensue_pattern__ for one in _ten()]

    def work() -> Done:
        columnar = Columnar(patterns, CardUsed)
        began = time.perf_counter()
        found: list[Pattern] = []
        for table in tables:
            found += _matches(patterns, columnar.take(table, _times(table)))
        found += _matches(patterns, columnar.advance(END))
        return time.perf_counter() - began, found

    return work


def _from_columns(count: int) -> Callable[[], Done]:
    """Each row becomes an event, and each pattern is given all of them."""
    tables = _arrow(count)
    patterns = [one.__ensue_pattern__ for one in _ten()]

    def work() -> Done:
        operators = [operator_of(one) for one in patterns]
        began = time.perf_counter()
        found: list[Pattern] = []
        position = 1
        for table in tables:
            events = msgspec.convert(table.to_pylist(), list[CardUsed])
            batch = Batch(events, _times(table).tolist(), range(position, position + len(events)))
            position += len(events)
            found += _matches(patterns, (operator.take(batch) for operator in operators))
        found += _matches(patterns, (operator.advance(END) for operator in operators))
        return time.perf_counter() - began, found

    return work


def _many(patterns: Sequence[type[Pattern]], count: int) -> Callable[[], Done]:
    """All of these, over events that are in memory."""
    events, times = events_of("seq2", count)
    definitions = [one.__ensue_pattern__ for one in patterns]

    def work() -> Done:
        operators = [operator_of(one) for one in definitions]
        began = time.perf_counter()
        found: list[Pattern] = []
        for batch in batches(events, times):
            found += _matches(definitions, (operator.take(batch) for operator in operators))
        found += _matches(definitions, (operator.advance(END) for operator in operators))
        return time.perf_counter() - began, found

    return work


def _together(patterns: Sequence[type[Pattern]], count: int) -> Callable[[], Done]:
    """The same, as an application does it that has all of them."""
    events, times = events_of("seq2", count)
    definitions = [one.__ensue_pattern__ for one in patterns]

    def work() -> Done:
        rules = PatternSet(definitions)
        began = time.perf_counter()
        found: list[Pattern] = []
        for batch in batches(events, times):
            found += _matches(definitions, rules.take(batch))
        found += _matches(definitions, rules.advance(END))
        return time.perf_counter() - began, found

    return work


def _matches(patterns: Sequence[Definition], outputs: Iterable[Sequence[object]]) -> list[Pattern]:
    return [
        match_of(pattern, one)
        for pattern, some in zip(patterns, outputs, strict=True)
        for one in some
        if isinstance(one, Found)
    ]


# ----------------------------------------------------------------------------------------------------------- snapshot


def _counting(count: int, *, kept: bool) -> Callable[[], Done]:
    """The row `count`; with `kept`, the states of all keys that a batch changed become bytes after it, as when they are stored."""
    events, times = events_of("count", count)
    definition = PATTERNS["count"].__ensue_pattern__
    rows = _rows(times)

    def work() -> Done:
        operator: Any = operator_of(definition)
        found: list[Pattern] = []
        began = time.perf_counter()
        for batch, at in zip(batches(events, times), range(0, count, BATCH), strict=True):
            stored = msgspec.structs.replace(batch, rows=rows[at : at + BATCH])
            found += [match_of(definition, one) for one in operator.take(stored) if isinstance(one, Found)]
            if kept:
                for key in operator.changed():
                    state = operator.state(key)
                    if state is not None:
                        pack(state)
        found += [match_of(definition, one) for one in operator.advance(END) if isinstance(one, Found)]
        return time.perf_counter() - began, found

    return work


def _rows(times: Sequence[int]) -> list[Row]:
    """As a log would hold them."""
    name = b"0123456789abcdef"
    data = b'{"card":"k496","kind":269,"value":63.75,"time":1600000000000}'
    return [(position, name, 1, name, 1, at, None, None, None, None, b"", data) for position, at in enumerate(times, 1)]


# ------------------------------------------------------------------------------------------------------------- memory


def _say_memory(count: int) -> None:
    """Beginnings that wait, each of a key of its own, and a hundred of each key; without the events, which are there anyhow."""
    for keys in (count, count // 100):
        events = [CardUsed(card=f"k{number % keys}", kind=1, value=0.0, time=number) for number in range(count)]
        times = list(range(0, count * 1000, 1000))
        operator = operator_of(PATTERNS["seq2"].__ensue_pattern__)
        gc.collect()
        tracemalloc.start()
        for batch in batches(events, times):
            operator.take(batch)
        del batch
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        print(json.dumps({"keys": keys, "bytes": used / count}))
        del operator


_WORK: dict[tuple[str, str], Callable[[int], Callable[[], Done]]] = {
    ("columnar", "columns"): _in_columns,
    ("columnar", "events"): lambda count: _many(_ten(), count),
    ("columnar", "rows"): _from_columns,
    ("rules", "hundred"): lambda count: _together([pair(first) for first in range(0, 200, 2)], count),
    ("rules", "one"): lambda count: _many([pair(0)], count),
    ("snapshot", "kept"): lambda count: _counting(count, kept=True),
    ("snapshot", "not"): lambda count: _counting(count, kept=False),
}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
