"""Random patterns of every construct and option, and short streams in which they find something. From one seed always the same;
`smaller` makes what fails easy to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from ensue.errors import DefinitionError
from tests.patterns.oracle import Timed
from tests.patterns.shapes import EVENTS, SEES, UNARY, PatternShape, Seen, StepShape, build, leaves

__all__ = ["draw_shape", "draw_stream", "draw_usual", "smaller"]

TIMES: list[Any] = [2, (1, None), (0, None), (1, 2), (0, 2), (2, None), (1, 3), 1, (2, 3)]
CONTIGUITIES = ["relaxed", "relaxed", "strict", "any"]


class _Drawing:
    """Draws the steps of one class in order; each may read those before it."""

    def __init__(self, chance: Random, budget: int) -> None:
        self.chance, self.budget = chance, budget
        self.seen: list[tuple[Seen, str]] = []

    def of(self, *choices: Any) -> Any:
        return self.chance.choice(choices)

    def rarely(self, value: Any, otherwise: Any = None) -> Any:
        return value if self.of(0, 0, 0, 1) else otherwise

    def step(self, name: str, *, depth: int, first: bool, kinds: tuple[str, ...]) -> StepShape:
        kind = self.of(*kinds)
        if self.budget < 2 and kind in ("either", "all_of", "group"):
            kind = "one"
        contiguity = "relaxed" if first else self.of(*CONTIGUITIES)
        if kind in ("either", "all_of", "group"):
            return self._compound(kind, name, depth, contiguity)
        self.budget -= 1
        step = StepShape(
            kind,
            event=self.of("A", "A", "B", "B", "C", "Sub"),
            where=self.of(*[None] * 12, *UNARY),
            contiguity="relaxed" if kind == "absent" and contiguity == "any" else contiguity,
            within=None if first else self.rarely(self.of(1, 2, 3, 5, 7)),
        )
        if kind == "several":
            step = step._replace(
                times=self.of(*TIMES),
                inner=self.of(*CONTIGUITIES),
                greedy=self.of(True, True, False),
                until=self.rarely(self.of(*UNARY)),
            )
            if step.times == 1:
                step = step._replace(until=None)
        if kind == "optional":
            step = step._replace(greedy=self.of(True, True, False))
        return step._replace(sees=self._sees(step, name))

    def _sees(self, step: StepShape, name: str) -> tuple[tuple[Seen, str, str], ...]:
        readable = [*self.seen, *([("several", name)] * 2 if step.kind == "several" and name else [])]
        if step.kind not in ("either", "all_of", "group", "absent") and name:
            low = step.times[0] if isinstance(step.times, tuple) else 1
            kind: Seen = (
                "several" if step.kind == "several" else "perhaps" if step.kind == "optional" or low == 0 else "one"
            )
            self.seen.append((kind, name))
        if not name or not readable or not self.of(False, False, True):
            return ()
        seen, of = self.of(*readable)
        return ((seen, self.of(*SEES[seen]), of),)

    def _compound(self, kind: Any, name: str, depth: int, contiguity: str) -> StepShape:
        many = 2 if depth or self.budget < 4 else self.of(2, 2, 3)
        inner = ("one", "one", "several") if depth else ("one", "one", "several", "group")
        step = StepShape(kind, contiguity=contiguity, inner=self.of(*CONTIGUITIES))
        if kind == "group":
            step = step._replace(times=self.of(*TIMES, 1, 1), parts=self._group(depth + 1))
        else:
            parts = tuple(self.step("", depth=depth + 1, first=True, kinds=inner) for _ in range(many))
            step = step._replace(parts=tuple(_takes_one(part) for part in parts))
        if kind == "either":
            step = step._replace(inner="relaxed")
            if all(part.kind == "one" for part in step.parts) and name:
                self.seen.append(("one", name))
        return step

    def _group(self, depth: int) -> tuple[StepShape, ...]:
        drawing = _Drawing(self.chance, self.budget)
        kinds = ("one", "one", "several", "optional", "absent", "absent") + (
            ("either", "all_of", "group") if depth < 2 else ()
        )
        steps: list[StepShape] = []
        for at in range(self.of(1, 2, 2, 3)):
            edge = at == 0
            of = tuple(kind for kind in kinds if kind != "absent") if edge else kinds
            steps.append(drawing.step(f"s{at}", depth=depth, first=edge, kinds=of))
        self.budget = drawing.budget
        while steps[-1].kind == "absent":
            steps.pop()
        if all(_nothing(step) for step in steps):
            steps[0] = _takes_one(steps[0])
        return tuple(steps)


def _nothing(step: StepShape) -> bool:
    return step.kind in ("optional", "absent") or (isinstance(step.times, tuple) and step.times[0] == 0)


def _takes_one(step: StepShape) -> StepShape:
    """The same, but that it cannot take nothing."""
    if step.kind == "optional":
        return step._replace(kind="one", greedy=True)
    if isinstance(step.times, tuple) and step.times[0] == 0:
        return step._replace(times=(1, step.times[1]))
    return step


KINDS = ("one", "one", "one", "several", "several", "optional", "absent", "absent", "either", "all_of", "group")


def draw_shape(chance: Random, kinds: tuple[str, ...] = KINDS) -> PatternShape:
    """A pattern that can be defined."""
    while True:
        shape = _draw(chance, kinds)
        try:
            build(shape)
        except DefinitionError:
            continue
        return shape


def draw_usual(chance: Random) -> PatternShape:
    """What most patterns are: one event or so many, and then another, or none."""
    many = chance.choice((1, 1, 2, 3, (2, None), (3, None)))
    first = StepShape(
        "one" if many == 1 else "several",
        event=chance.choice("AAB"),
        where=chance.choice((None, *UNARY)),
        times=many,
    )
    second = StepShape(
        chance.choice(("one", "one", "absent")),
        event=chance.choice("ABB"),
        where=chance.choice((None, *UNARY)),
        sees=() if many != 1 else chance.choice(((), (("one", chance.choice(sorted(SEES["one"])), "s0"),))),
    )
    return PatternShape(
        (first, second), chance.choice((2, 3, 4, 9)), chance.choice(("next", "none", "past_last", "last s0"))
    )


def _draw(chance: Random, kinds: tuple[str, ...]) -> PatternShape:
    drawing = _Drawing(chance, budget=6)
    steps: list[StepShape] = []
    for at in range(drawing.of(1, 2, 2, 3, 3, 4)):
        of = tuple(kind for kind in kinds if at or kind != "absent")
        steps.append(drawing.step(f"s{at}", depth=0, first=at == 0, kinds=of))
    if all(_nothing(step) for step in steps):
        steps[0] = _takes_one(steps[0])
    within = drawing.of(None, 3, 6, 9, 12)
    if within is None and any(step.kind == "absent" for step in steps):
        within = 6
    if within is not None:
        steps = [_shortened(step, within) for step in steps]
    taking = [f"s{at}" for at, step in enumerate(steps) if step.kind != "absent"]
    skip = drawing.of(
        "next", "next", "past_last", "none", f"first {drawing.of(*taking)}", f"last {drawing.of(*taking)}"
    )
    where = None
    if drawing.seen and drawing.of(0, 0, 0, 0, 1):
        seen, name = drawing.of(*drawing.seen)
        where = (seen, drawing.of(*SEES[seen]), name)
    return PatternShape(tuple(steps), within, skip, where)


def _shortened(step: StepShape, within: int) -> StepShape:
    own = None if step.within is None else min(step.within, within)
    return step._replace(within=own, parts=tuple(_shortened(part, within) for part in step.parts))


def draw_stream(chance: Random, shape: PatternShape, *, most: int = 9) -> list[Timed]:
    """One to nine events in their order, some at equal times, of one key or two: most of them such as the pattern looks for."""
    wanted = [step for step in leaves(shape.steps) if not step.parts]
    kinds = [step.event for step in wanted]
    if chance.random() < 0.6:  # in the order of the steps, some twice, with something between
        kinds = [kind for kind in kinds for _ in range(chance.choice((1, 1, 1, 2, 2, 3)))]
        for _ in range(chance.randrange(3)):
            kinds.insert(chance.randrange(len(kinds) + 1), chance.choice(("A", "B", "C", "Sub", "Other")))
        kinds = kinds[chance.randrange(2) :] or kinds
    else:
        kinds = chance.choices([*kinds, *kinds, "A", "B", "C", "Other"], k=chance.randint(1, most))
    time, stream = 0, list[Timed]()
    gaps = chance.choice(((0, 0, 1), (1,), (1, 1, 0, 2), (1, 2, 3, 0)))
    keys = chance.choice(("k", "k", "kkj"))
    for position, kind in enumerate(kinds[:most]):
        time += chance.choice(gaps)
        event = EVENTS[kind](k=chance.choice(keys), n=chance.randrange(4), s=chance.choice("xxy"))
        stream.append(Timed(time, position, event))
    return stream


# ------------------------------------------------------------------------------------------------- what fails, smaller


def smaller(
    shape: PatternShape, stream: Sequence[Timed], fails: Callable[[PatternShape, Sequence[Timed]], bool]
) -> tuple[PatternShape, Sequence[Timed]]:
    """The smallest pattern and stream, found by leaving out one thing after the other, that still fail."""
    again = True
    while again:
        again = False
        for less in _less(shape, stream):
            try:
                build(less[0])
            except (DefinitionError, AttributeError):
                continue
            if fails(*less):
                shape, stream = less
                again = True
                break
    return shape, stream


def _less(shape: PatternShape, stream: Sequence[Timed]) -> Iterator[tuple[PatternShape, Sequence[Timed]]]:
    for at in range(len(stream)):
        yield shape, [*stream[:at], *stream[at + 1 :]]
    if len(shape.steps) > 1:  # only the last: the names of the others are read
        yield shape._replace(steps=shape.steps[:-1]), stream
    if shape.where is not None:
        yield shape._replace(where=None), stream
    if shape.skip != "next":
        yield shape._replace(skip="next"), stream
    for at, step in enumerate(shape.steps):
        for simpler_step in _less_of(step):
            yield shape._replace(steps=(*shape.steps[:at], simpler_step, *shape.steps[at + 1 :])), stream


def _less_of(step: StepShape) -> Iterator[StepShape]:
    if step.parts:
        yield step.parts[0]
    for word, plain in StepShape._field_defaults.items():
        if word not in ("event", "parts") and getattr(step, word) != plain:
            yield step._replace(**{word: plain})
    for at, part in enumerate(step.parts):
        if len(step.parts) > (1 if step.kind == "group" else 2):
            yield step._replace(parts=(*step.parts[:at], *step.parts[at + 1 :]))
        for less in _less_of(part):
            yield step._replace(parts=(*step.parts[:at], less, *step.parts[at + 1 :]))
