"""The tape: every choice a simulated run makes, recorded as one list.

Whatever could have gone another way (which ready step runs next, whether a process dies here, how late a timer is)
asks the tape: `draw(label, bound)` answers 0 to `bound - 1`, and 0 is always the boring answer: in order, no fault, no
delay. A tape is therefore written down as its choices that were not 0, and dropping one of them makes a run simpler.

Each label draws from a stream of its own, so one draw more or less under one label shifts no other. A label's family is
the part before its first slash; `crash/app/committed` is of the family `crash`.
"""

from __future__ import annotations

import platform
import random
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote, unquote

__all__ = ["Choice", "Diverged", "Tape"]

_FORMAT = "1"
_SAFE = "/.:-_"
_CHOICE = re.compile(r"(?P<label>[^#=\s]+)#(?P<nth>\d+)=(?P<value>\d+)")

# How often a draw of a family is not boring, in a random run. Each seed picks one rate per family (per label for
# faults), zeros included: runs in which few things go wrong often find more than runs in which all do seldom.
_RATES: dict[str, tuple[float, ...]] = {
    "clock": (0.0, 0.0, 0.0, 0.01),
    "crash": (0.0, 0.01, 0.03, 0.1),
    "delay": (0.0, 0.0, 0.02, 0.2),
    "fault": (0.0, 0.05, 0.3),
    "pause": (0.0, 0.0, 0.0, 0.01),
    "schedule": (0.0, 0.05, 0.5, 1.0),
}
_OTHER_RATES = (0.0, 0.1, 0.5)


class Choice(NamedTuple):
    """One choice that was not 0: the `nth` draw (from 0) under `label` answered `value`."""

    label: str
    nth: int
    value: int

    @property
    def family(self) -> str:
        return self.label.partition("/")[0]


class Diverged(Exception):
    """An exact replay asked for other choices than the tape holds: the code or the environment has changed."""


class _Stream:
    """What one label answers: planned values by their place, or chance at a rate."""

    __slots__ = ("chance", "count", "planned", "rate")

    def __init__(self, planned: dict[int, int], chance: random.Random | None, rate: float) -> None:
        self.count = 0
        self.planned = planned
        self.chance = chance
        self.rate = rate


class Tape:
    """Choices drawn from a seed, or played back from a list.

    `choices` are those made so far that were not 0; `draws` counts all. `diverged` says in words where a replay
    asked differently from the recording. `seed` also feeds everything that is random but not a choice, such as ids.
    """

    def __init__(
        self, seed: int, *, planned: Iterable[Choice] | None = None, exact: bool = False, recorded_with: str = ""
    ) -> None:
        self.seed = seed
        self.random = planned is None
        self.choices: list[Choice] = []
        self.draws = 0
        self.calm = False
        """Every draw is the boring one from now on."""
        self.diverged: list[str] = []
        self._exact = exact
        self._streams: dict[str, _Stream] = {}
        self._planned: dict[str, dict[int, int]] = {}
        for choice in planned or ():
            self._planned.setdefault(choice.label, {})[choice.nth] = choice.value
        if recorded_with and recorded_with != _environment():
            self.diverged.append(f"recorded with {recorded_with}, running with {_environment()}")

    @classmethod
    def record(cls, seed: int) -> Tape:
        """Draw from `seed`: the same seed answers the same to the same questions, in any process."""
        return cls(seed)

    @classmethod
    def replay(cls, seed: int, choices: Iterable[Choice], *, exact: bool = False) -> Tape:
        """Play `choices` back, each at its place under its label; everything else is 0.

        A choice that does not fit its draw becomes 0 and is noted in `diverged`. With `exact` it raises `Diverged`, as
        does `finish` for a choice that was never asked for.
        """
        return cls(seed, planned=choices, exact=exact)

    @classmethod
    def boring(cls, seed: int = 0) -> Tape:
        """Nothing goes wrong and everything is in order."""
        return cls(seed, planned=())

    def draw(self, label: str, bound: int) -> int:
        """A number from 0 to `bound - 1`; 0 is the boring one."""
        if self.calm:
            return 0
        stream = self._streams.get(label)
        if stream is None:
            stream = self._streams[label] = self._open(label)
        nth = stream.count
        stream.count = nth + 1
        self.draws += 1
        chance = stream.chance
        if chance is None:
            if not stream.planned:
                return 0
            value = stream.planned.pop(nth, 0)
            if value >= bound:
                self._note(f"{label}#{nth} answered {value}, of {bound} now")
                return 0
        elif stream.rate == 0.0 or bound < 2 or chance.random() >= stream.rate:
            return 0
        else:
            # The schedule is uniform over what is ready; a fault that strikes is never the boring one.
            value = int(chance.random() * bound) if label == "schedule" else 1 + int(chance.random() * (bound - 1))
        if value:
            self.choices.append(Choice(label, nth, value))
        return value

    def stream(self, label: str) -> random.Random:
        """Chance that belongs to the seed but is no choice: ids, jitter."""
        return random.Random(f"{self.seed}:stream:{label}")

    def finish(self) -> None:
        """The run is over: note what was recorded and never asked for."""
        for label, stream in self._streams.items():
            self._planned[label] = stream.planned
        for label, planned in self._planned.items():
            for nth, value in planned.items():
                self._note(f"{label}#{nth}={value} was never asked for")

    def to_text(self) -> str:
        """One line that `from_text` plays back. Choices of a recorded run are implied by its seed."""
        words = [f"simulation={_FORMAT}", _environment(), f"seed={self.seed}"]
        if self.random:
            words.append("random")
        else:
            words += [f"{quote(label, safe=_SAFE)}#{nth}={value}" for label, nth, value in self.choices]
        return " ".join(words)

    @classmethod
    def from_text(cls, text: str) -> Tape:
        """The tape that `to_text` wrote down. A bare number is a seed. `ValueError` for anything else."""
        words = text.split()
        if len(words) == 1 and words[0].isdecimal():
            return cls.record(int(words[0]))
        if len(words) < 4 or words[0] != f"simulation={_FORMAT}":
            raise ValueError(
                f"not a simulation tape: {text[:60]!r}; expected a seed, or a line that begins with"
                f" 'simulation={_FORMAT} python=... ensue=... seed=...'"
            )
        recorded_with = f"{words[1]} {words[2]}"
        name, _, seed = words[3].partition("=")
        if name != "seed" or not seed.isdecimal():
            raise ValueError(f"not a simulation tape: expected seed=NUMBER, found {words[3]!r}")
        if words[4:] == ["random"]:
            return cls(int(seed), recorded_with=recorded_with)
        return cls(int(seed), planned=[_choice(word) for word in words[4:]], recorded_with=recorded_with)

    def _open(self, label: str) -> _Stream:
        if not self.random:
            return _Stream(self._planned.pop(label, {}), None, 0.0)
        family = label.partition("/")[0]
        rates = _RATES.get(family, _OTHER_RATES)
        unit = label if family == "fault" or family not in _RATES else family
        rate = random.Random(f"{self.seed}:rate:{unit}").choice(rates)
        return _Stream({}, random.Random(f"{self.seed}:draw:{label}"), rate)

    def _note(self, difference: str) -> None:
        self.diverged.append(difference)
        if self._exact:
            raise Diverged(f"The run differs from its recording: {difference}")


def _choice(word: str) -> Choice:
    match = _CHOICE.fullmatch(word)
    if match is None:
        raise ValueError(f"not a simulation tape: expected LABEL#NTH=VALUE, found {word!r}")
    return Choice(unquote(match["label"]), int(match["nth"]), int(match["value"]))


def _environment() -> str:
    return f"python={platform.python_version()} ensue={_ensue_version()}"


def _ensue_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ensue")
    except PackageNotFoundError:
        return "source"
