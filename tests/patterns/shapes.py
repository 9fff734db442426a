"""Patterns as data, small enough to be drawn at random and to be read when they fail: `program` shows one as it would be written.

The events have few values, so that conditions hold about half of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from types import new_class
from typing import Any, Literal, NamedTuple, TypeAlias

from ensue import Event
from ensue.patterns import (
    Pattern,
    absent,
    all_of,
    count,
    distinct,
    either,
    group,
    largest,
    one,
    optional,
    several,
    smallest,
    to_first,
    to_last,
    total,
)

__all__ = [
    "EVENTS",
    "OF_SEVERAL",
    "OPAQUE",
    "RAISES",
    "SEES",
    "UNARY",
    "A",
    "B",
    "C",
    "Other",
    "PatternShape",
    "Seen",
    "StepShape",
    "Sub",
    "build",
    "features",
    "leaves",
    "program",
]


class A(Event, key="k"):
    k: str = "k"
    n: int = 0
    s: str = "x"


class B(Event, key="k"):
    k: str = "k"
    n: int = 0
    s: str = "x"


class C(Event, key="k"):
    k: str = "k"
    n: int = 0
    s: str = "x"


class Sub(C):
    """Is a C as well."""


class Other(Event, key="k"):
    """Of no step: it only comes between."""

    k: str = "k"
    n: int = 0
    s: str = "x"


EVENTS: Mapping[str, Any] = {"A": A, "B": B, "C": C, "Sub": Sub, "Other": Other}

UNARY: Mapping[str, Callable[[Any], bool]] = {
    "e.n > 1": lambda e: e.n > 1,
    "e.n < 2": lambda e: e.n < 2,
    "e.n == 2": lambda e: e.n == 2,
    "e.s == 'x'": lambda e: e.s == "x",
    "e.n in (0, 3)": lambda e: e.n in (0, 3),
    "not e.n == 1 and e.s != 'y'": lambda e: not e.n == 1 and e.s != "y",  # noqa: SIM201
    "0 < e.n < 3 or e.s == 'y'": lambda e: 0 < e.n < 3 or e.s == "y",
    "e.n % 2 == 1": lambda e: e.n % 2 == 1,
    "e.n if e.s == 'x' else e.n > 2": lambda e: e.n if e.s == "x" else e.n > 2,
    "str(e.n) in '13'": lambda e: str(e.n) in "13",
    "abs(e.n - 2) < min(e.n, 2)": lambda e: abs(e.n - 2) < min(e.n, 2),
}
RAISES = "6 // (e.n - 1) > 0"
"""Raises for every fourth event, or so."""
_ASKED = {**UNARY, RAISES: lambda e: 6 // (e.n - 1) > 0}
OPAQUE = (
    "str(e.n) in '13'",
    "str(self.R.n) != str(e.n)",
    "sum(one.n for one in self.R) < 4",
    "self.R is None or e.n > 0",
)


def _n(event: Any) -> int:
    n: int = event.n
    return n


Sees: TypeAlias = Callable[[Any, Any], bool]

ONE: Mapping[str, Callable[[str], Sees]] = {
    "e.n > self.R.n": lambda r: lambda self, e: e.n > getattr(self, r).n,
    "e.n != self.R.n": lambda r: lambda self, e: e.n != getattr(self, r).n,
    "e.s == self.R.s": lambda r: lambda self, e: e.s == getattr(self, r).s,
    "str(self.R.n) != str(e.n)": lambda r: lambda self, e: str(getattr(self, r).n) != str(e.n),
}
PERHAPS: Mapping[str, Callable[[str], Sees]] = {
    "not self.R or e.n >= self.R.n": lambda r: lambda self, e: not getattr(self, r) or e.n >= getattr(self, r).n,
    "self.R is None or e.n > 0": lambda r: lambda self, e: getattr(self, r) is None or e.n > 0,
}
OF_SEVERAL: Mapping[str, Callable[[str], Sees]] = {
    "total(self.R, n) + e.n < 5": lambda r: lambda self, e: total(getattr(self, r), lambda each: each.n) + e.n < 5,
    "count(self.R) < 2 or e.n > 0": lambda r: lambda self, e: count(getattr(self, r)) < 2 or e.n > 0,
    "len(distinct(self.R, s)) < 2": lambda r: lambda self, e: len(distinct(getattr(self, r), lambda each: each.s)) < 2,
    "not self.R or self.R[-1].n <= e.n": lambda r: (
        lambda self, e: not getattr(self, r) or getattr(self, r)[-1].n <= e.n
    ),
    "not self.R or largest(self.R, n) <= e.n": lambda r: (
        lambda self, e: not getattr(self, r) or largest(getattr(self, r), _n) <= e.n
    ),
    "not self.R or smallest(self.R, n) < e.n": lambda r: (
        lambda self, e: not getattr(self, r) or smallest(getattr(self, r), _n) < e.n
    ),
    "not self.R or self.R[0].s == e.s": lambda r: lambda self, e: not getattr(self, r) or getattr(self, r)[0].s == e.s,
    "sum(one.n for one in self.R) < 4": lambda r: lambda self, e: sum(one.n for one in getattr(self, r)) < 4,
}
Seen: TypeAlias = Literal["one", "perhaps", "several"]
SEES: Mapping[Seen, Mapping[str, Callable[[str], Sees]]] = {"one": ONE, "perhaps": PERHAPS, "several": OF_SEVERAL}
"""Conditions that see the match, by what the step that they read may have taken; `R` is its name."""


class StepShape(NamedTuple):
    kind: Literal["one", "several", "optional", "absent", "either", "all_of", "group"]
    event: str = "A"
    where: str | None = None
    sees: tuple[tuple[Seen, str, str], ...] = ()
    """What the step that is read may have taken; which condition; of which step."""
    parts: tuple[StepShape, ...] = ()
    times: int | tuple[int, int | None] = 1
    contiguity: Any = "relaxed"
    inner: Any = "relaxed"
    greedy: bool = True
    until: str | None = None
    within: int | None = None


class PatternShape(NamedTuple):
    steps: tuple[StepShape, ...]
    within: int | None = None
    skip: str = "next"
    """`next`, `past_last`, `none`, or `first s1`, `last s1`."""
    where: tuple[Seen, str, str] | None = None
    """As of a step; the event is the last of the step that is read."""

    def __repr__(self) -> str:
        return program(self)


def build(shape: PatternShape, name: str = "Drawn", **options: Any) -> type[Pattern]:
    """The class. Errors: `DefinitionError`, as from any class."""
    if shape.within is None:
        options["unbounded"] = True
    else:
        options["within"] = timedelta(microseconds=shape.within)
    way, _, step = shape.skip.partition(" ")
    options["skip"] = {"first": to_first, "last": to_last}[way](step) if step else way
    namespace: dict[str, Any] = {f"s{at}": _step(one) for at, one in enumerate(shape.steps)}
    if shape.where is not None:
        seen, text, of = shape.where
        condition = SEES[seen][text](of)
        probe = A(n=1)
        namespace["where"] = lambda self: condition(self, probe)
    return new_class(name, (Pattern,), options, lambda own: own.update(namespace))


def _step(shape: StepShape) -> Any:
    where = () if shape.where is None else (_ASKED[shape.where],)
    options: dict[str, Any] = {"contiguity": shape.contiguity}
    if shape.within is not None:
        options["within"] = timedelta(microseconds=shape.within)
    event: Any = EVENTS[shape.event]
    match shape.kind:
        case "one":
            step: Any = one(event, *where, **options)
        case "several":
            until = None if shape.until is None else UNARY[shape.until]
            step = several(
                event, *where, times=shape.times, inner=shape.inner, greedy=shape.greedy, until=until, **options
            )
        case "optional":
            step = optional(event, *where, greedy=shape.greedy, **options)
        case "absent":
            step = absent(event, *where, **options)
        case "either":
            any_number: Any = either
            step = any_number(*map(_step, shape.parts), contiguity=shape.contiguity)
        case "all_of":
            any_number = all_of
            step = any_number(*map(_step, shape.parts), contiguity=shape.contiguity, inner=shape.inner)
        case "group":
            repeated = build(PatternShape(shape.parts), "Part")
            step = group(repeated, times=shape.times, contiguity=shape.contiguity, inner=shape.inner)
    for seen, text, of in shape.sees:
        step.where(SEES[seen][text](of))
    return step


# ------------------------------------------------------------------------------------------------- what one contains


def leaves(steps: tuple[StepShape, ...]) -> Iterator[StepShape]:
    """All steps, also those in others."""
    for step in steps:
        yield step
        yield from leaves(step.parts)


def features(shape: PatternShape) -> set[str]:
    """The constructs of the language that a pattern uses, by name."""
    found = {f"skip {shape.skip.partition(' ')[0]}", "within" if shape.within else "unbounded"}
    if shape.where is not None:
        found.add("where of the whole")
    for at, step in enumerate(shape.steps):
        if step.kind == "absent":
            behind = [one for one in shape.steps[at + 1 :] if one.kind != "absent" and not _may_be_nothing(one)]
            found.add(f"absence {'between' if behind else 'at the end'}, {step.contiguity}")
        if at == len(shape.steps) - 1 and step.kind in ("several", "optional"):
            found.add("greedy at the end" if step.greedy else "not greedy at the end")
    for step in leaves(shape.steps):
        found |= _of_step(step)
    return found


def _of_step(step: StepShape) -> set[str]:
    found = {step.kind, f"contiguity {step.contiguity}"}
    if step.kind in ("group", "either", "all_of"):
        found |= {f"{part.kind} in {step.kind}" for part in step.parts}
    if step.kind in ("several", "group") and step.times not in (1, (1, 1)):
        low, high = step.times if isinstance(step.times, tuple) else (step.times, step.times)
        found |= {f"inner {step.inner} of {step.kind}"}
        found.add(f"times {'optional ' if low == 0 else ''}{'unbounded' if high is None else 'bounded'} of {step.kind}")
    if step.kind in ("several", "optional"):
        found.add("greedy" if step.greedy else "not greedy")
    found |= {name for name, given in (("until", step.until), ("within of a step", step.within)) if given is not None}
    texts = [step.where, *(text for _, text, _ in step.sees)]
    if any(text in OPAQUE for text in texts):
        found.add("opaque condition")
    for word in ("total", "count", "distinct", "smallest", "largest", "[-1]", "[0]"):
        if any(text is not None and word in text for text in texts):
            found.add(f"condition on {word}")
    return found | {f"condition on {seen}" for seen, _, _ in step.sees}


def _may_be_nothing(step: StepShape) -> bool:
    return step.kind == "optional" or (isinstance(step.times, tuple) and step.times[0] == 0)


# ---------------------------------------------------------------------------------------------------- to be read


def program(shape: PatternShape, name: str = "Drawn") -> str:
    """The pattern as a program."""
    whole = f"within={shape.within}us" if shape.within else "unbounded=True"
    lines = [f"class {name}(Pattern, {whole}, skip={shape.skip!r}):"]
    for at, step in enumerate(shape.steps):
        lines.append(f"    s{at} = {_written(step)}")
    if shape.where is not None:
        lines.append(f"    where: {shape.where[1].replace('R', shape.where[2])} with e.n == 1")
    return "\n" + "\n".join(lines)


def _written(step: StepShape) -> str:
    inside: list[str] = []
    if step.parts:
        inside += [
            f"s{at}={_written(part)}" if step.kind == "group" else _written(part) for at, part in enumerate(step.parts)
        ]
    else:
        inside.append(step.event)
    if step.where is not None:
        inside.append(f"lambda e: {step.where}")
    for word in ("times", "contiguity", "inner", "greedy", "until", "within"):
        if (value := getattr(step, word)) != StepShape._field_defaults[word]:
            inside.append(f"{word}={value!r}")
    inside += [f"where {text.replace('R', of)}" for _, text, of in step.sees]
    return f"{step.kind}({', '.join(inside)})"
