"""Tells a failed run as a short numbered story, ending with the check that failed and the line that repeats it."""

from __future__ import annotations

import os
import shlex
import traceback
from collections.abc import Iterator, Sequence
from itertools import groupby

from ensue.testing.simulation.run import Outcome
from ensue.testing.simulation.simulated import Entry

__all__ = ["VARIABLE", "SimulationFailure", "story_of"]

VARIABLE = "ENSUE_SIMULATION"
"""The environment variable that holds a seed or a tape: `simulate` then runs that alone."""

_FAILPOINTS_SHOWN = 6
_LINES_AT_MOST = 60
_ERROR_LINES = 6


class SimulationFailure(AssertionError):
    """A check failed in simulation. The message tells what happened, in order, and how to see it again.

    `story` is the list of its lines, `replay` the text that `simulate` takes in `ENSUE_SIMULATION` and a decorated
    test in its `replay` method. The error itself is the `__cause__`.
    """

    def __init__(self, outcome: Outcome, *, found: str, name: str) -> None:
        assert outcome.error is not None
        self.outcome = outcome
        self.story = story_of(outcome)
        self.replay = outcome.tape.to_text()
        numbered = "\n".join(f"  {number:2}. {line}" for number, line in enumerate(self.story, 1))
        lines = [_headline(outcome.error), "", numbered, "", f"Found by {found}.", *_warnings(outcome)]
        super().__init__("\n".join([*lines, f"Replay: {_replay_line(self.replay, name)}"]))


def story_of(outcome: Outcome) -> list[str]:
    """What happened, in order; failpoints that a process passed in a row are one line."""
    lines: list[str] = []
    for entries in _grouped(outcome.trace):
        first = entries[0]
        lines.append(f"[{_clock(first.at)}] {first.who} {_sentence(entries)}")
    if len(lines) > _LINES_AT_MOST:
        keep = _LINES_AT_MOST // 2
        lines[keep:-keep] = [f"... {len(lines) - 2 * keep} more ..."]
    assert outcome.error is None or lines is not None
    if outcome.error is not None:
        lines.append(f"[{_clock(outcome.seconds)}] the check fails: {_check(outcome.error)}")
    return lines


def _grouped(trace: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Neighbours of one process that only pass failpoints, run late or say much are told together."""
    for (_, kind), entries in groupby(trace, key=lambda entry: (entry.who, entry.kind)):
        if kind in ("is late", "passes", "runs", "says"):
            yield list(entries)
        else:
            yield from ([entry] for entry in entries)


def _sentence(entries: list[Entry]) -> str:
    kind = entries[0].kind
    if kind == "passes":
        names = [entry.what for entry in entries]
        if len(names) > _FAILPOINTS_SHOWN:
            names[:] = [names[0], f"... {len(names) - _FAILPOINTS_SHOWN} more ...", *names[1 - _FAILPOINTS_SHOWN :]]
        return f"passes {', '.join(names)}"
    if kind == "says" and len(entries) > 2:
        return f"says {entries[0].what}, and {len(entries) - 1} more such things"
    if kind == "says":
        return "says " + "; ".join(entry.what for entry in entries)
    if kind == "note":
        return f"- {entries[0].what}"
    if kind == "runs" and len(entries) > 1:
        return f"runs {entries[0].what}, and {len(entries) - 1} more steps out of order"
    if kind == "is late" and len(entries) > 1:
        return f"is late {len(entries)} times, first {entries[0].what}"
    return f"{kind} {entries[0].what}".rstrip()


def _headline(error: Exception) -> str:
    text = str(error).strip() or _check(error)
    return "\n".join(text.splitlines()[:_ERROR_LINES])


def _check(error: Exception) -> str:
    """The error in a line: its message, or the source line of a bare assert."""
    message = next(iter(str(error).strip().splitlines()), "")
    frames = traceback.extract_tb(error.__traceback__)
    source = (frames[-1].line or "") if frames else ""
    if isinstance(error, AssertionError):
        return message or source
    return f"{type(error).__name__}: {message}"


def _warnings(outcome: Outcome) -> list[str]:
    return [f"Note: {difference}" for difference in outcome.tape.diverged[:3]]


def _replay_line(text: str, name: str) -> str:
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    if test:
        return f"{VARIABLE}={shlex.quote(text)} pytest {shlex.quote(test)}"
    return f"{name}.replay({text!r})"


def _clock(seconds: float) -> str:
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, rest = divmod(rest, 60)
    text = f"{int(hours):02}:{int(minutes):02}:{rest:06.3f}"
    return f"{int(days)}d {text}" if days else text
