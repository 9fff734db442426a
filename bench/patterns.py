"""Patterns and windows against Flink CEP, Esper, Bytewax and Quix: `make bench-patterns`. What each line means is in bench/README.md.

`python -m bench.patterns seq2 kleene` measures only what begins with these words.

Each side is a process of its own, which makes its events first, does the work several times, and says after each how fast it was and
what it found. The first time warms up and does not count. Sides take turns; if they did not find the same, there is no figure.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from bench import peer_java
from bench.measure import Report, folder
from bench.pattern_data import columns, write_lines

__all__ = ["Round", "Waiting", "main"]

ROOT = Path(__file__).parent.parent
PASSES, ROUNDS = 2, 2
"""How often each side's process is started, and what it measures after warming up."""
WATERMARK = "20"
"""Milliseconds between watermarks of Flink. Its default of 200 lets ten times as many events wait, and was slower."""


class Round(msgspec.Struct, frozen=True):
    """What a side says after each time."""

    round: int
    per_second: float
    matches: int
    digest: str


class Waiting(msgspec.Struct, frozen=True):
    """What a beginning costs that waits, where so many keys have some."""

    keys: int
    bytes: float


def main(only: list[str]) -> None:
    """All of it."""
    report = Report("Patterns and windows, and what they are measured against")
    for name, measure in ROWS.items():
        if not only or any(name.startswith(one) for one in only):
            measure(report)
    if esper := [one for one in _AGAINST_ESPER.values() if len(_AGAINST_ESPER) == 4]:
        report.ratio("esper", min(esper), 1)
    report.show()


# ---------------------------------------------------------------------------------------------------- running sides


def _sides(
    what: str, report: Report, commands: Mapping[str, Sequence[str]], *, passes: int = PASSES
) -> dict[str, float]:
    """The median of each side. Ends the program if two did not find the same."""
    figures: dict[str, list[float]] = {name: [] for name in commands}
    found: dict[str, tuple[int, str]] = {}
    order = list(commands)
    for number in range(passes):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            for one in _run(commands[name]):
                found[name] = (one.matches, one.digest)
                if one.round:
                    figures[name].append(one.per_second)
            if len(set(found.values())) != 1:
                sys.exit(f"{what}: the sides did not find the same, so nothing can be compared: {found}")
    medians = {name: statistics.median(values) for name, values in figures.items()}
    matches, digest = next(iter(found.values()))
    report.say(f"{what}: {matches:,} matches, digest {digest}, on every side")
    return medians


def _run(command: Sequence[str]) -> list[Round]:
    return [msgspec.json.decode(line, type=Round) for line in _lines(command)]


def _lines(command: Sequence[str]) -> list[str]:
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("{")]
    if ran.returncode or not lines:
        sys.exit(f"{' '.join(command)} failed:\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}")
    return lines


def _ours(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "bench.pattern_ours", *map(str, arguments)]


def _flink(row: str, count: int, parallelism: int, *more: str) -> list[str]:
    return peer_java.command("FlinkMain", row, str(count), str(ROUNDS), str(parallelism), WATERMARK, *more)


def _esper(row: str, count: int, *more: str) -> list[str]:
    return peer_java.command("EsperMain", row, str(count), str(ROUNDS), *more)


# ---------------------------------------------------------------------------------------------------------- the rows


def _pattern(row: str, count: int, report: Report, *, esper: bool = False) -> None:
    """A pattern here and on Flink CEP, of which the better of one and two subtasks counts; the first ones also on Esper."""
    commands = {
        "ensue": _ours(row, count, ROUNDS),
        "Flink CEP, 1 subtask": _flink(row, count, 1),
        "Flink CEP, 2 subtasks": _flink(row, count, 2),
    }
    if esper:
        commands["Esper, 1 thread"] = _esper(row, count)
    _compare(row, report, _sides(row, report, commands))


def _compare(name: str, report: Report, figures: Mapping[str, float]) -> None:
    report.rates(WHAT[name], figures)
    flink = max(figure for side, figure in figures.items() if side.startswith("Flink"))
    report.ratio(name, figures["ensue"], flink)
    if "Esper, 1 thread" in figures:
        report.ratio(f"esper-{name}", figures["ensue"], figures["Esper, 1 thread"])
        _AGAINST_ESPER[name] = figures["ensue"] / figures["Esper, 1 thread"]


def _seq2(report: Report) -> None:
    _pattern("seq2", 1_000_000, report, esper=True)
    filtered = _sides("seq2 with a filter", report, {"flink": _flink("seq2", 1_000_000, 1, "filtered")})
    report.row("the same, behind a filter that its user writes", "Flink CEP", f"{filtered['flink']:,.0f} events/s")
    report.section()


def _seq2_json(report: Report) -> None:
    count = 1_000_000
    with folder() as place:
        file = place / "events.jsonl"
        write_lines(file, columns("seq2", count))
        more = f"json={file}"
        commands = {
            "ensue": _ours("seq2", count, ROUNDS, more),
            "Flink CEP, 1 subtask": _flink("seq2", count, 1, more),
            "Flink CEP, 2 subtasks": _flink("seq2", count, 2, more),
            "Esper, 1 thread": _esper("seq2", count, more),
        }
        _compare("seq2-json", report, _sides("seq2-json", report, commands))


def _windows(report: Report) -> None:
    """Quix is so much slower that all of them get few events."""
    count, peers = 300_000, _peers()
    commands = {
        "ensue": [sys.executable, "-m", "bench.pattern_windows", str(count), str(ROUNDS)],
        "Bytewax": [peers, "-m", "bench.peer_bytewax", str(count), str(ROUNDS)],
        "Quix Streams": [peers, "-m", "bench.peer_quix", str(count), "1"],
    }
    figures = _sides("windows", report, commands, passes=1)
    report.rates("the sum of each of 10,000 keys in windows of five minutes", figures)
    report.ratio("windows", figures["ensue"], max(figures["Bytewax"], figures["Quix Streams"]))


def _peers() -> str:
    """Python with what bench/peers_of_patterns.txt names, in an environment of its own within the project's."""
    place = Path(sys.prefix) / "peers"
    wanted = Path(__file__).parent / "peers_of_patterns.txt"
    ready, python = place / "ready", str(place / "bin" / "python")
    if not ready.exists() or ready.read_text() != wanted.read_text():
        print("Installing Bytewax and Quix Streams ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        quietly = ["--quiet", "--disable-pip-version-check"]
        subprocess.run([python, "-m", "pip", "install", *quietly, "--requirement", wanted], check=True)
        ready.write_text(wanted.read_text())
    return python


def _columnar(report: Report) -> None:
    figures = _alone("columnar", report, 1_000_000, "columns", "events", "rows")
    named = {
        "Arrow batches": figures["columns"],
        "one event at a time, from memory": figures["events"],
        "one event at a time, from the same batches": figures["rows"],
    }
    report.rates("ten selective patterns", named)
    report.ratio("columnar", figures["columns"], figures["rows"])
    report.ratio("columnar-memory", figures["columns"], figures["events"])


def _rules(report: Report) -> None:
    one = _alone("one rule", report, 1_000_000, "one", row="rules")["one"]
    hundred = _alone("a hundred rules", report, 300_000, "hundred", row="rules")["hundred"]
    report.rates("patterns at once", {"1 pattern": one, "100 patterns": hundred})
    report.ratio("rules-100", hundred * 100, one)


def _snapshot(report: Report) -> None:
    figures = _alone("snapshot", report, 500_000, "not", "kept")
    named = {"state in memory": figures["not"], "changed keys made into bytes after each 10,000": figures["kept"]}
    report.rates("five failures then a success", named)
    report.ratio("snapshot", figures["kept"], figures["not"])


def _alone(what: str, report: Report, count: int, *sides: str, row: str | None = None) -> dict[str, float]:
    commands = {
        side: [sys.executable, "-m", "bench.pattern_alone", row or what, side, str(count), str(ROUNDS)]
        for side in sides
    }
    return _sides(what, report, commands)


def _memory(report: Report) -> None:
    command = [sys.executable, "-m", "bench.pattern_alone", "memory", "-", "200000", "0"]
    for line in _lines(command):
        said = msgspec.json.decode(line, type=Waiting)
        report.row(f"one that waits, of {said.keys:,} keys", "ensue", f"{said.bytes:,.0f} bytes")
    report.section()


_AGAINST_ESPER: dict[str, float] = {}
WHAT = {
    "seq2": "A then B by key within 30 minutes, 0.5 % of the events are either",
    "seq2-json": "the same from JSON",
    "count": "five failures then a success in 5 minutes, 10,000 keys",
    "absence": "an order that is not paid in 15 minutes",
    "kleene": "a rising run of at least 3, its sum above a limit",
    "dense": "four steps, every event takes part",
    "pairs": "every pair in 10 seconds, 100 matches an event",
}

ROWS: dict[str, Callable[[Report], None]] = {
    "seq2": _seq2,
    "seq2-json": _seq2_json,
    "count": partial(_pattern, "count", 600_000, esper=True),
    "absence": partial(_pattern, "absence", 600_000, esper=True),
    "kleene": partial(_pattern, "kleene", 400_000),
    "dense": partial(_pattern, "dense", 400_000),
    "pairs": partial(_pattern, "pairs", 3_000),
    "columnar": _columnar,
    "windows": _windows,
    "rules-100": _rules,
    "snapshot": _snapshot,
    "memory": _memory,
}
"""What is measured, by the name of its ratio."""


if __name__ == "__main__":
    main(sys.argv[1:])
