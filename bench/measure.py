"""How the programs of this folder measure: sides in turn, the same checked work, medians, one table.

A *side* is a function that does the work once and returns an `Outcome`: how many events a second, and a digest of what it
stored or read, taken from what comes back out of it, not from what went in. Sides take turns, so that a disturbance of the
machine meets all of them; a digest that differs ends the program.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

__all__ = ["Outcome", "Report", "alternate", "fdatasync_seconds", "folder"]


class Outcome(NamedTuple):
    """What one round of one side came to."""

    per_second: float
    contents: str


Side = Callable[[], Outcome]


def alternate(what: str, rounds: int, sides: Mapping[str, Side]) -> dict[str, float]:
    """Run each side once a round, every round beginning with another one; the median of each. The first round warms up
    and does not count. Ends the program if two sides did not do the same work."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    contents: dict[str, str] = {}
    for number in range(rounds + 1):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            gc.collect()
            outcome = sides[name]()
            contents[name] = outcome.contents
            if number:
                figures[name].append(outcome.per_second)
        if len(set(contents.values())) != 1:
            sys.exit(f"{what}: the sides did not do the same work, so nothing can be compared: {contents}")
    return {name: statistics.median(values) for name, values in figures.items()}


@contextlib.contextmanager
def folder() -> Generator[Path, None, None]:
    """A new folder on the project's own disk (a folder for temporary files may be in memory, where nothing is durable)."""
    path = Path(tempfile.mkdtemp(prefix="bench-", dir=sys.prefix))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def fdatasync_seconds(rounds: int = 200) -> float:
    """The median of one `fdatasync` after 4 KiB more were written to a growing file, as a log grows."""
    times: list[float] = []
    with folder() as path:
        descriptor = os.open(path / "growing", os.O_WRONLY | os.O_CREAT)
        try:
            for number in range(rounds):
                os.pwrite(descriptor, b"x" * 4096, number * 4096)
                began = time.perf_counter()
                os.fdatasync(descriptor)
                times.append(time.perf_counter() - began)
        finally:
            os.close(descriptor)
    return statistics.median(times)


class Report:
    """A table that is shown as it grows, and the ratios at its end."""

    def __init__(self, title: str) -> None:
        self._console = Console(width=110, highlight=False)
        self._table = Table("what", "who", "figure", title=title, title_justify="left", pad_edge=False)
        self._table.columns[2].justify = "right"
        self._ratios: list[str] = []

    def say(self, text: str) -> None:
        """What is going on, for whoever waits."""
        self._console.print(f"[dim]{text}[/dim]")

    def rates(self, what: str, figures: Mapping[str, float], unit: str = "events/s") -> None:
        """One row for each side."""
        for name, figure in figures.items():
            self.row(what, name, f"{figure:,.0f} {unit}")
            self.say(f"    {name}: {figure:,.0f} {unit}")
        self._table.add_section()

    def row(self, what: str, who: str, figure: str) -> None:
        self._table.add_row(what, who, figure)

    def section(self) -> None:
        self._table.add_section()

    def ratio(self, name: str, ours: float, theirs: float) -> None:
        """Ours over theirs, higher is better."""
        self._ratios.append(f"ratio: {name} {ours / theirs:.2f}")

    def show(self) -> None:
        """The table, then one line for each ratio."""
        self._console.print(self._table)
        for line in self._ratios:
            print(line)
