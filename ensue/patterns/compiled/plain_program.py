"""The program of patterns of two steps, which are most of those that people write: something (so many times), then something else, or
nothing of it.

    failed = several(LoggedIn, lambda login: not login.ok, times=5)       order = one(OrderPlaced)
    ok = one(LoggedIn, lambda login: login.ok)                            paid = absent(PaymentReceived)

A run of them is the event that began it: what it has taken since is what the next runs of its key began with. So a beginning
costs one object, and a deadline none.
"""

from __future__ import annotations

import msgspec

from ensue.events.message import Event
from ensue.patterns.compiled.asking import Asking
from ensue.patterns.compiled.layout import Layout, Running
from ensue.patterns.compiled.program import Program
from ensue.patterns.compiled.reaction import write_key
from ensue.patterns.compiled.relevance import parts_of, seen_alone
from ensue.patterns.compiled.source import Lines, Writer
from ensue.patterns.definition import Definition, Take
from ensue.patterns.operator import Found, Taken

__all__ = ["PlainProgram", "Shape", "plain_shape"]


class Shape(msgspec.Struct, frozen=True):
    """What a pattern of two steps is beside its conditions."""

    times: int
    """How many events the first step takes."""
    span: int
    """How long after its beginning a run is over."""
    absent: bool
    """The second step is an absence: a match at the deadline."""
    past_last: bool
    """A match rules out all that has begun."""


def plain_shape(definition: Definition, *, timeouts: bool) -> Shape | None:
    """None for a pattern of another kind."""
    if len(definition.elements) != 2 or definition.semantics != "ensue" or definition.where is not None:
        return None
    first, second = definition.elements
    spans = [one for one in (definition.within, second.within) if one is not None]
    if not isinstance(first.node, Take) or not isinstance(second.node, Take) or not spans or first.within is not None:
        return None
    repeated = first.low != 1
    known = (
        first.low == first.high and first.high is not None and first.until is None and second.contiguity == "relaxed"
    )
    if not known or (first.several and not repeated) or first.inner != "relaxed" or second.several or second.high != 1:
        return None
    conditions = [(one, part) for one in (*first.node.conditions, *second.node.conditions) for part in parts_of(one)]
    crossing = [part for one, part in conditions if not seen_alone(part, one)]
    own = [part for one in first.node.conditions for part in parts_of(one) if not seen_alone(part, one)]
    if own or (crossing and repeated) or any(callable(part) for part in crossing):
        return None
    if second.absent:
        return None if repeated else Shape(1, min(spans), True, False)
    if timeouts or second.low != 1 or definition.skip.to not in ("next", "none", "past_last"):
        return None
    if repeated and second.within is not None:
        return None
    return Shape(first.low, min(spans), False, definition.skip.to == "past_last")


class _First(Running):
    """Reads a run that is its first event."""

    def event(self, step: str, index: int | None) -> str:
        if index is not None:
            raise LookupError(step)
        return f"{self.name}.event"

    def present(self, step: str) -> str:
        return "True"


class PlainProgram(Program):
    """See the module."""

    def __init__(
        self, layout: Layout, shape: Shape, classes: tuple[type[Event], ...], *, others: bool, lazy: bool = False
    ) -> None:
        super().__init__(layout, classes, others=others, lazy=lazy)
        self.shape = shape
        self.react = self._react

    def _setup(self, lines: Lines) -> None:
        lines("begun = operator.begun")
        lines("touched = operator.touched")
        if self.shape.absent:
            lines("queue, keyed = operator.queue, operator.keyed")
        if self.lazy:
            lines("step = ''")

    def _found(self, lines: Lines) -> None:
        of = self.names.of
        first, second = self.layout.elements
        several = self.shape.times > 1
        took = f"{of(first.name)}: {'tuple(took)' if several else 'took'}"
        started = "took[0].time" if several else "took.time"
        if not self.shape.absent:
            took += f", {of(second.name)}: last"
        with lines.block(f"def found(took, {'' if self.shape.absent else 'last, '}k, ended):"):
            name = of(self.layout.definition.name)
            lines(f"return {of(Found, 't')}(of={name}, key=k, started={started}, ended=ended, steps={{{took}}})")
        if self.shape.absent:
            self._lapse(lines)

    def _lapse(self, lines: Lines) -> None:
        """What is complete at its deadline. It is given when the events of a program's call are through: until then it waits in its
        place, and whoever reads that asks whether it is over."""
        with lines.block("def lapse(operator, t, out):"):
            lines("begun, queue, keyed, touched = operator.begun, operator.queue, operator.keyed, operator.touched")
            with lines.block("while queue:"):
                lines("r = queue[0]")
                lines(f"due = r.time + {self.names.of(self.shape.span)}")
                with lines.block("if due > t:"):
                    lines("return")
                lines("queue.popleft()")
                lines("k = keyed.popleft()")
                lines("z = begun.get(k)")
                with lines.block("if z is r:"):
                    lines("del begun[k]")
                with lines.block("elif z.__class__ is list and z[0] is r:"):
                    lines("del z[0]")
                    with lines.block("if not z:"):
                        lines("del begun[k]")
                with lines.block("else:"):
                    lines("continue")
                with lines.block("if touched is not None:"):
                    lines("touched.add(k)")
                lines("out.append(found(r, k, due))")

    # ---------------------------------------------------------------------------------------------- one event

    def _react(self, of: Asking, lines: Lines) -> None:
        begins, ends = of.answer(of.takes[0]), of.answer(of.takes[1])
        if begins == ends == "False":
            return
        timed = begins != "False" or (self.shape.absent and self.lazy)
        if timed:
            self._time(lines)
        write_key(of, lines)
        lines("z = begun.get(k)")
        if begins == "False":
            with lines.block("if z is None:"):
                lines("continue")
        if not timed:
            self._time(lines)
        if self.lazy and begins != "False":
            lines(f"step = {self.names.of(self.layout.elements[0].name)}")
            lines(f"new = {begins}")
            begins = "new"
        if ends != "False":
            write = self._end_each if self.shape.times == 1 else self._end_repeated
            write(of, lines, ends, also_begins=begins != "False")
        if begins != "False":
            self._begin(lines, begins, after_end=ends != "False")

    def _time(self, lines: Lines) -> None:
        lines("t = times[i]")
        if self.shape.absent and self.lazy:
            lines("lapse(operator, t, out)  # since an error tells what was found before")

    def _taken(self) -> str:
        made = f"{self.names.of(Taken, 't')}(t, positions[i], e"
        return f"taken = {made}) if rows is None else {made}, rows[i])"

    def _touch(self, lines: Lines) -> None:
        with lines.block("if touched is not None:"):
            lines("touched.add(k)")

    def _end_each(self, of: Asking, lines: Lines, ends: str, *, also_begins: bool) -> None:
        """The second step takes the event for runs of one event each; or forbids it, which ends them."""
        crossing = self._crossing(of)
        if also_begins and self.shape.past_last:
            lines("ended = False")
        condition = " and ".join(
            one for one in ("z is not None" if also_begins else "", "" if self.lazy else ends) if one
        )
        with lines.block("if 1:" if condition in ("", "True") else f"if {condition}:"):
            if self.shape.absent and not crossing and not self.lazy and not also_begins:
                with lines.block("if z.__class__ is not list:"):
                    with lines.block(f"if t - z.time < {self.names.of(self.shape.span)}:"):
                        lines("del begun[k]")
                        self._touch(lines)
                    lines("continue")
            lines("hit, left = [], []")
            with lines.block("for r in z if z.__class__ is list else (z,):"):
                with lines.block(f"if t - r.time < {self.names.of(self.shape.span)}:"):
                    said = [
                        *([f"(step := {self.names.of(self.layout.elements[1].name)})", ends] if self.lazy else []),
                        *crossing,
                    ]
                    with lines.block(f"if {' and '.join(said)}:" if said else "if 1:"):
                        lines("hit.append(r)")
                    if said:
                        with lines.block("else:"):
                            lines("left.append(r)")
                if self.shape.absent:
                    with lines.block("else:"):
                        lines("left.append(r)")
            if not self.shape.absent:
                with lines.block("if hit:"):
                    lines(self._taken())
                    if self.shape.past_last:
                        lines("del hit[1:], left[:]")
                        if also_begins:
                            lines("ended = True")
                    with lines.block("for r in hit:"):
                        lines("out.append(found(r, taken, k, t))")
            with lines.block("if not left:"):
                lines("del begun[k]")
                if also_begins:
                    lines("z = None")
                self._touch(lines)
            with lines.block("elif hit:"):
                lines("z = begun[k] = left")
                self._touch(lines)

    def _crossing(self, of: Asking) -> list[str]:
        second = self.layout.elements[1].node
        assert isinstance(second, Take)
        writer = Writer(self.names, "e", _First(self.layout, self.names), of.fields)
        said = [
            of.asked_part(part, writer)
            for condition in second.conditions
            for part in parts_of(condition)
            if not seen_alone(part, condition)
        ]
        return [one for one in said if one != "True"]

    def _end_repeated(self, of: Asking, lines: Lines, ends: str, *, also_begins: bool) -> None:
        """The second step takes the event for all runs that have taken as many as they must."""
        times = self.names.of(self.shape.times)
        if also_begins and self.shape.past_last:
            lines("ended = False")
        mark = f"(step := {self.names.of(self.layout.elements[1].name)})" if self.lazy else ""
        known = "z is not None" if also_begins else ""
        asked = [one for one in (known, f"len(z) >= {times}", mark, ends) if one and one != "True"]
        with lines.block(f"if {' and '.join(asked)}:"):
            lines(f"first, behind = 0, len(z) - {times} + {self.names.of(1)}")
            with lines.block(f"while first < behind and t - z[first].time >= {self.names.of(self.shape.span)}:"):
                lines("first += 1")
            with lines.block("if first < behind:"):
                lines(self._taken())
                if self.shape.past_last:
                    lines(f"out.append(found(z[first : first + {times}], taken, k, t))")
                    lines("del z[:]")
                    if also_begins:
                        lines("ended = True")
                else:
                    with lines.block("for at in range(first, behind):"):
                        lines(f"out.append(found(z[at : at + {times}], taken, k, t))")
            lines("del z[:behind]")
            with lines.block("if not z:"):
                lines("del begun[k]")
                if also_begins:
                    lines("z = None")
            self._touch(lines)

    def _begin(self, lines: Lines, begins: str, *, after_end: bool) -> None:
        conditions = [begins] if begins != "True" else []
        if after_end and self.shape.past_last:
            conditions.append("not ended")
        runs = self.layout.definition.runs
        with lines.block(f"if {' and '.join(conditions)}:" if conditions else "if 1:"):
            lines(self._taken())
            with lines.block("if z is None:"):
                lines("begun[k] = taken" if self.shape.times == 1 else "begun[k] = [taken]")
            with lines.block("elif z.__class__ is list:" if self.shape.times == 1 else "else:"):
                lines("z.append(taken)")
                with lines.block(f"if len(z) > {self.names.of(runs)} or not len(z) & 15:"):
                    self._prune(lines)
            if self.shape.times == 1:
                with lines.block("else:"):
                    lines("begun[k] = [z, taken]")
                    if runs == 1:
                        self._prune(lines)
            if self.shape.absent:
                lines("queue.append(taken)")
                lines("keyed.append(k)")
            self._touch(lines)

    def _prune(self, lines: Lines) -> None:
        if self.shape.absent:
            lines("lapse(operator, t, out)")
        lines("operator.prune(k, t)")
