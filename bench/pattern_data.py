"""The events of `make bench-patterns`: the same here and in bench/java/src/bench/Data.java, each computed from its number.

No two events of a row have the same time, so a match is named by the times of its events. Times are milliseconds; values are
quarters, so that sums are exact in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MINUTE", "SECOND", "START", "WINDOW", "Columns", "columns", "digest", "name_of_window", "write_lines"]

START = 1_600_000_000_000
SECOND = 1_000
MINUTE = 60 * SECOND
WINDOW = 5 * MINUTE
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1

Words = NDArray[np.uint64]


class Columns(NamedTuple):
    """The events of a row, in the order of their times."""

    key: list[str]
    kind: list[int]
    value: list[float]
    time: list[int]


def columns(row: str, count: int) -> Columns:
    """The first `count` events of a row."""
    number = np.arange(count, dtype=np.uint64)
    word = _mix((number + np.uint64(1)) * np.uint64(_GOLDEN))
    low = word & np.uint64(0xFFFF)
    middle = (word >> np.uint64(16)) & np.uint64(0xFFFFFF)
    high = word >> np.uint64(40)
    keys, gap = _SHAPES[row]
    key = high % np.uint64(keys)
    kind = np.zeros(count, np.uint64)
    if row == "absence":
        key, kind = _orders(number)
    elif row == "count":
        kind = (middle % np.uint64(10) == 0).astype(np.uint64)
    elif row in ("seq2", "dense"):
        kind = middle % np.uint64(400 if row == "seq2" else 4)
    names = [f"k{name}" for name in range(int(key.max()) + 1)]
    return Columns(
        [names[name] for name in key.tolist()],
        kind.tolist(),
        (low % np.uint64(400) * 0.25).tolist(),
        (START + number * np.uint64(gap) + low % np.uint64(gap)).tolist(),
    )


_SHAPES = {
    "seq2": (1_000, 5),
    "count": (10_000, 2),
    "absence": (1, 5),
    "kleene": (1_000, 5),
    "dense": (1_000, 5),
    "pairs": (10, 10),
    "windows": (10_000, 2),
}
"""How many keys a row has, and the milliseconds from one event to the next."""


def _orders(number: Words) -> tuple[Words, Words]:
    """Four events an order: placed, viewed, paid, viewed. The order that is paid was placed by a multiple of 64 orders earlier, which
    depends on its number: two classes of 64 are never paid, one is paid too late, the others in time."""
    order = number.astype(np.int64) // 4
    residue = order % 64
    paid = order - 64 * np.where(residue == 2, 800, residue * 10)
    pays = (number % np.uint64(4) == 2) & (residue >= 2) & (paid >= 0)
    kind = np.where(number % np.uint64(4) == 0, 0, np.where(pays, 1, 2))
    return np.where(pays, paid, order).astype(np.uint64), kind.astype(np.uint64)


def write_lines(path: Path, of: Columns) -> None:
    """One JSON object a line."""
    with path.open("w") as file:
        file.writelines(
            f'{{"card":"{key}","kind":{kind},"value":{value},"time":{time}}}\n'
            for key, kind, value, time in zip(*of, strict=True)
        )


def digest(matches: Iterable[Sequence[int]]) -> str:
    """The sum of what each match is, which is folded from the times of its events: equal for equal sets."""
    by_length: dict[int, list[Sequence[int]]] = {}
    for times in matches:
        by_length.setdefault(len(times), []).append(times)
    total = sum(_total(np.array(some, np.uint64)) for some in by_length.values())
    return f"{total & _MASK:016x}"


def name_of_window(key: str, start: int, total: float) -> tuple[int, int, int]:
    """What a window is named by in a digest, as a match is by its times."""
    return int(key[1:]), start, int(total * 4)


def _total(times: Words) -> int:
    folded = np.zeros(len(times), np.uint64)
    for position in range(times.shape[1]):
        folded = _mix(folded + times[:, position])
    return int(folded.sum(dtype=np.uint64))


def _mix(word: Words) -> Words:
    """The finaliser of splitmix64."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
