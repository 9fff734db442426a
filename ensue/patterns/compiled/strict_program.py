"""The program of patterns in which each step takes the very next event of its key, or the run is over.

    low = one(Price)
    rising = several(Price, contiguity="strict", inner="strict")          each event moves or ends each run of its key
    fall = one(Price, contiguity="strict")

So the runs of a key are kept in one list, in the order of their beginnings, and each knows its place: an event looks a key up once, and
what goes on is the list that takes the place of the one that was there.
"""

from __future__ import annotations

from ensue.events.message import Event
from ensue.patterns.compiled.asking import Asking
from ensue.patterns.compiled.layout import Layout
from ensue.patterns.compiled.places import Way
from ensue.patterns.compiled.program import Program
from ensue.patterns.compiled.reaction import Reaction, write_key
from ensue.patterns.compiled.source import Lines
from ensue.patterns.operator import Taken

__all__ = ["StrictProgram", "is_strict"]


def is_strict(layout: Layout) -> bool:
    """Whether a pattern is of this kind."""
    places, definition = layout.places.all, layout.definition
    ways = [way for place in places for way in place.ways]
    return (
        bool(places)
        and layout.deadlines == "none"
        and layout.last is None
        and definition.where is None
        and definition.skip.to in ("next", "none", "past_last")
        and all(one.until is None and not one.absent for one in layout.elements)
        and all(way.strict and not way.absences for way in ways)
    )


class StrictProgram(Program):
    """See the module. Behind what a layout says, a run has its place, and the way that takes the event at hand."""

    def __init__(self, layout: Layout, classes: tuple[type[Event], ...], *, others: bool, lazy: bool = False) -> None:
        super().__init__(layout, classes, others=others, lazy=lazy)
        self.react = _react

    def _setup(self, lines: Lines) -> None:
        lines("runs = operator.waiting[0]")
        lines("touched = operator.touched")
        if self.lazy:
            lines("step = ''")


def _react(asking: Asking, lines: Lines) -> None:
    _StrictReaction(asking, lines).write()


class _StrictReaction(Reaction):
    def __init__(self, of: Asking, lines: Lines) -> None:
        super().__init__(of, lines)
        self.place = len(self.layout.blank)
        self.way = self.place + 1
        self.numbers = {way: number for number, way in enumerate(self.takers)}

    def write(self) -> None:
        lines = self.lines
        lines("t = times[i]")
        write_key(self.of, lines)
        lines("z = runs.get(k)")
        if not self.begins:
            with lines.block("if z is None:"):
                lines("continue")
        lines("left = []")
        if self.takers:
            with lines.block("if z is not None:") if self.begins else lines.block("if 1:"):
                self._ask_runs()
        if self.begins:
            self._ask_beginning()
        self._ask_what_values()
        # from here on nothing raises
        self._touch()
        if self.takers or self.begins:
            with lines.block(f"if {'left or new' if self.begins else 'left'}:"):
                made = f"{self.names.of(Taken, 't')}(t, positions[i], e"
                lines(f"taken = {made}) if rows is None else {made}, rows[i])")
        if self.takers:
            with lines.block("if left:"):
                self._go_on()
        if self.begins:
            self._begin_strictly()
        with lines.block("if left:"):
            lines("runs[k] = left")
        with lines.block("elif z is not None:"):
            lines("del runs[k]")

    # --------------------------------------------------------------------------------------------------- asking

    def _ask_runs(self) -> None:
        """A careful program asks place by place, as the general form does."""
        lines = self.lines
        places = [number for number, chosen in self.choices.items() if any(isinstance(one.leaf, Way) for one in chosen)]
        for some in [[number] for number in places] if self.lazy else [places]:
            with lines.block("for r in z:"):
                over = self._over()
                if over is not None:
                    with lines.block(f"if {over}:"):
                        lines("continue")
                lines(f"p = r[{self.place}]")
                for order, number in enumerate(some):
                    with lines.block(f"{'elif' if order else 'if'} p == {number}:"):
                        self._ask_place(number)
        if self.lazy:
            lines("left.sort()")

    def _ask_place(self, number: int) -> None:
        lines, word = self.lines, "if"
        for one in self.choices[number]:
            with lines.block(f"{word} {one.source}:" if one.source else "else:" if word == "elif" else "if 1:"):
                if isinstance(one.leaf, Way):
                    lines(f"r[{self.way}] = {self.numbers[one.leaf.element, one.leaf.again]}")
                    lines("left.append(r)")
                else:
                    lines("pass")
            word = "elif"

    def _ask_what_values(self) -> None:
        """What aggregates need of the event. A careful program asks it only where a run takes it."""
        for at in self.layout.slots:
            registers = self._registers(at)
            ways = [number for (element, _), number in self.numbers.items() if element == at]
            asked = ["left" if not self.lazy else f"any(r[{self.way}] in ({', '.join(map(str, ways))},) for r in left)"]
            asked = (asked if ways else []) + (["new"] if at == 0 and self.begins else [])
            if registers and asked:
                with self.lines.block(f"if {' or '.join(asked)}:"):
                    self._write_values(registers)

    # ---------------------------------------------------------------------------------------------------- doing

    def _go_on(self) -> None:
        lines = self.lines
        completing = any(self.places.after[at].full is None for at, _ in self.numbers)
        if completing:
            lines("done = None")
        with lines.block("for r in left:"):
            if len(self.numbers) > 1:
                lines(f"p = r[{self.way}]")
            for (at, again), number in self.numbers.items():
                word = "elif" if number else "if"
                with lines.block(f"{word} p == {number}:" if len(self.numbers) > 1 else "if 1:"):
                    self._take_strictly(at, again)
        if completing:
            with lines.block("if done is not None:"):
                self._give_done()

    def _take_strictly(self, at: int, again: bool) -> None:
        lines, slot = self.lines, self.layout.slots[at]
        if again:
            lines(f"r[{slot}].append(taken)")
        else:
            lines(f"r[{slot}] = {'[taken]' if self.elements[at].several else 'taken'}")
        self._update(at)
        single, targets = self._targets(at, again)
        if not targets:
            self._arrive_at(single)
            return
        lines(f"n = len(r[{slot}])")
        word = "if"
        for condition, target in targets.items():
            with lines.block(f"{word} {condition}:" if condition else "else:"):
                self._arrive_at(target)
            word = "elif"

    def _arrive_at(self, target: int | None) -> None:
        lines = self.lines
        if target is not None:
            lines(f"r[{self.place}] = {target}")
            return
        lines(f"r[{self.place}] = -1")
        if self.skip == "past_last":
            lines("done = r")
            lines("break")
        else:
            lines("done = True")

    def _give_done(self) -> None:
        """The runs are in the order of their beginnings."""
        lines = self.lines
        if self.skip == "past_last":
            lines("out.append(found(done, k, t))")
            lines("del runs[k]")
            lines("continue")
            return
        with lines.block("for r in left:"):
            with lines.block(f"if r[{self.place}] < 0:"):
                lines("out.append(found(r, k, t))")
        lines(f"left = [r for r in left if r[{self.place}] >= 0]")

    def _begin_strictly(self) -> None:
        lines, target = self.lines, self._after_one(0)
        run = [self._literal(number, value) for number, value in enumerate(self.layout.blank)]
        with lines.block("if new:"):
            lines(f"r = [{', '.join([*run, str(target), '0'])}]")
            self._update(0)
            lines("left.append(r)")
            with lines.block(f"if len(left) > {self.names.of(self.context.definition.runs)}:"):
                lines("runs[k] = left")
                lines("operator.bound(k)")
                lines("continue")
