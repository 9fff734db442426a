"""Random patterns and streams for `semantics="flink"`, in the words of `Answers.java`, and our own answers in the same form."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from random import Random
from typing import Any, NamedTuple

from ensue.patterns import Pattern, absent, group, one, optional, several, to_first, to_last
from ensue.patterns.operator import Batch, Expired, Found, Output, Taken
from ensue.patterns.operators import operator_of
from tests.patterns.letters import Letter

__all__ = ["OVER", "Asking", "answers_of_ours", "drawn", "in_words", "pattern_of"]

OVER = 1000


class Step(NamedTuple):
    name: str
    word: str
    kinds: str = ""
    contiguity: str = "relaxed"
    low: int = 1
    high: int | None = 1
    inner: str = "relaxed"
    greedy: bool = False
    until: str = ""
    within: int | None = None
    more: str = ""
    steps: tuple[Step, ...] = ()


class Asking(NamedTuple):
    """One pattern and one stream: kind, value and time of each event."""

    skip: str
    skip_step: str
    within: int
    steps: tuple[Step, ...]
    stream: tuple[tuple[str, int, int], ...]


def drawn(chance: Random) -> Asking:
    """Only what Flink CEP accepts."""
    many = chance.choice((1, 2, 2, 3, 3, 4))
    steps: list[Step] = []
    for number in range(many):
        steps.append(_step(chance, f"s{number}", steps))
    if all(step.low == 0 or step.word == "absent" for step in steps):
        steps[0] = steps[0]._replace(low=1)
    taking = [step.name for step in steps if step.word == "step"]
    skip = chance.choice(("none", "none", "next", "past_last", "first", "last"))
    if skip in ("first", "last") and not taking:
        skip = "next"
    time, stream = 1, list[tuple[str, int, int]]()
    for _ in range(chance.randint(2, 9)):
        time += chance.choice((0, 1, 1, 1, 2, 4))
        stream.append((chance.choice("aabbcx"), chance.randint(1, 3), time))
    step = chance.choice(taking) if skip in ("first", "last") else "-"
    return Asking(skip, step, chance.choice((5, 8, 12, 100)), tuple(steps), tuple(stream))


def _step(chance: Random, name: str, before: Sequence[Step]) -> Step:
    kinds = chance.choice(("a", "b", "c", "ab", "bc"))
    contiguity = chance.choice(("relaxed", "relaxed", "strict", "any")) if before else "relaxed"
    follows = before and before[-1].low > 0 and before[-1].word != "absent"
    if follows and chance.random() < 0.2:
        return Step(name, "absent", kinds, chance.choice(("relaxed", "strict")))
    if chance.random() < 0.2:
        inside: list[Step] = []
        for at in range(chance.choice((1, 2))):
            inside.append(_leaf(chance, f"g{name}{at}", inside, whole=False))
        if all(step.low == 0 for step in inside):
            inside[0] = inside[0]._replace(low=1)
        low, high = chance.choice(((1, 1), (2, 2), (1, None), (0, 1), (1, 2), (0, None)))
        inner = chance.choice(("relaxed", "any", "strict"))
        return Step(name, "group", "", contiguity, low, high, inner, steps=tuple(inside))
    return _leaf(chance, name, before, whole=True)._replace(contiguity=contiguity)


def _leaf(chance: Random, name: str, before: Sequence[Step], *, whole: bool) -> Step:
    kinds = chance.choice(("a", "b", "c", "ab", "bc"))
    contiguity = chance.choice(("relaxed", "relaxed", "strict", "any")) if before else "relaxed"
    low, high = chance.choice(((1, 1), (1, 1), (0, 1), (2, 2), (1, 3), (1, None), (0, None), (2, None), (0, 2)))
    if before and before[-1].greedy and low == 0:
        low = 1  # Flink refuses an optional step behind a greedy one
    single = high == 1
    inner = "relaxed" if single else chance.choice(("relaxed", "strict", "any"))
    several_ = [step.name for step in before if step.word == "step"]
    return Step(
        name,
        "step",
        kinds,
        contiguity,
        low,
        high,
        inner,
        not single and inner != "any" and chance.random() < 0.4,
        chance.choice(("c", "x")) if high is None and chance.random() < 0.3 else "",
        chance.choice((2, 3)) if single and whole and before and chance.random() < 0.3 else None,
        chance.choice(several_) if whole and several_ and chance.random() < 0.25 else "",
    )


def in_words(asking: Asking) -> list[str]:
    """The lines that `Answers.java` reads."""
    lines = [f"pattern {asking.skip} {asking.skip_step} {asking.within}"]
    for step in asking.steps:
        lines += _words(step)
    lines += [f"event {kind} {value} {time}" for kind, value, time in asking.stream]
    return [*lines, f"run {OVER}"]


def _words(step: Step) -> list[str]:
    said = {
        "name": step.name,
        "kinds": step.kinds,
        "contiguity": step.contiguity,
        "low": str(step.low),
        "high": "" if step.high is None else str(step.high),
        "inner": step.inner,
        "greedy": "1" if step.greedy else "",
        "until": step.until,
        "within": "" if step.within is None else str(step.within),
        "more": step.more,
    }
    line = " ".join([step.word, *(f"{name}={value}" for name, value in said.items())])
    if step.word != "group":
        return [line]
    return [line, *(word for one in step.steps for word in _words(one)), "end"]


# -------------------------------------------------------------------------------------------------------------- our own


def pattern_of(asking: Asking) -> type[Pattern]:
    """The same pattern as a class of ours."""
    skip: Any = asking.skip
    if asking.skip in ("first", "last"):
        skip = (to_first if asking.skip == "first" else to_last)(asking.skip_step)
    fields = {step.name: _written(step) for step in asking.steps}
    options = {"within": _micros(asking.within), "skip": skip, "semantics": "flink"}
    return types.new_class("Asked", (Pattern,), options, lambda namespace: namespace.update(fields))


def _micros(number: int | None) -> timedelta | None:
    return None if number is None else timedelta(microseconds=number)


def _kind(kinds: str) -> Callable[[Letter], bool]:
    return lambda letter: letter.kind in kinds


def _written(step: Step) -> Any:
    contiguity: Any = step.contiguity
    inner: Any = step.inner
    within = _micros(step.within)
    written: Any
    if step.word == "group":
        fields = {one.name: _written(one) for one in step.steps}
        inside: Any = types.new_class(
            "Inside", (Pattern,), {"unbounded": True}, lambda namespace: namespace.update(fields)
        )
        return group(inside, times=(step.low, step.high), contiguity=contiguity, inner=inner)
    if step.word == "absent":
        return absent(Letter, _kind(step.kinds), contiguity=contiguity)
    if step.high == 1:
        make: Any = optional if step.low == 0 else one
        written = make(Letter, _kind(step.kinds), contiguity=contiguity, within=within)
    else:
        written = several(
            Letter,
            _kind(step.kinds),
            times=(step.low, step.high),
            contiguity=contiguity,
            inner=inner,
            greedy=step.greedy,
            until=_kind(step.until) if step.until else None,
            within=within,
        )
    if step.more:
        more = step.more

        def rises(self: Any, letter: Letter) -> bool:
            taken = getattr(self, more)
            last = taken if taken is None or isinstance(taken, Letter) else taken[-1] if taken else None
            return last is None or letter.value > last.value

        written.where(rises)
    return written


def answers_of_ours(asking: Asking) -> list[str]:
    """What is found, line by line as Flink's answers are."""
    operator = operator_of(pattern_of(asking).__ensue_pattern__, timeouts=True)
    batch = Batch(
        events=[Letter(k="k", kind=kind, value=value) for kind, value, _ in asking.stream],
        times=[time for _, _, time in asking.stream],
        positions=list(range(1, len(asking.stream) + 1)),
    )
    return [_told(output) for output in [*operator.take(batch), *operator.advance(OVER)]]


def _told(output: Output) -> str:
    assert isinstance(output, Found | Expired)
    taken: dict[str, list[int]] = {}
    _gather(output.steps, taken, "")
    shown = " ".join(f"{name}={','.join(map(str, taken[name]))}" for name in sorted(taken))
    return f"match {shown}" if isinstance(output, Found) else f"timeout {output.deadline} {shown}"


def _gather(took: Any, taken: dict[str, list[int]], name: str) -> None:
    if isinstance(took, Taken):
        taken.setdefault(name, []).append(took.position)
    elif isinstance(took, Mapping):
        for inner, one in took.items():
            _gather(one, taken, inner)
    elif isinstance(took, tuple):
        for one in took:
            _gather(one, taken, name)
