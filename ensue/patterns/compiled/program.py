"""Writes the program of a pattern that has places: one loop over events, in which nothing is decided that is known beforehand.

Runs wait in a dictionary for each place, by key. An event is first asked what depends on it alone; of most events that is all.

"""

from __future__ import annotations

from collections.abc import Callable

from ensue.events.message import Event
from ensue.patterns.compiled.asking import Asking, Context
from ensue.patterns.compiled.layout import Layout
from ensue.patterns.compiled.reaction import react
from ensue.patterns.compiled.source import Lines
from ensue.patterns.operator import Found

__all__ = ["Program"]


class Program:
    """The source for events of these classes; others may stand between them. `lazy` asks nothing that is not needed, for an event
    for which something raised."""

    def __init__(self, layout: Layout, classes: tuple[type[Event], ...], *, others: bool, lazy: bool = False) -> None:
        self.context = Context(layout, lazy=lazy)
        self.layout, self.names = layout, self.context.names
        self.classes, self.others, self.lazy = classes, others, lazy
        self.react: Callable[[Asking, Lines], None] = react

    # ------------------------------------------------------------------------------------------------ the whole

    def source(self) -> str:
        body = Lines(3)
        with body.block("for i, e in events:"):
            self._classes(body)
        found = Lines()
        self._found(found)
        head = Lines()
        known = ", ".join(f"{name}={name}" for name in self.names.values)
        head(f"def take(operator, events, times, positions, rows, keys, out, *, {known}):")
        setup = Lines(1)
        self._setup(setup)
        with setup.block("while True:"):
            setup("try:")
        failing = Lines(2)
        failing("    return")
        with failing.block("except Exception as error:"):
            if self.lazy:
                failing("raise operator.failed(error, step, i, e, positions, keys, out) from error")
            else:
                failing("operator.carefully(i, e, times, positions, rows, keys, out)")
        return found.text + "\n\n" + head.text + setup.text + body.text + failing.text

    def _setup(self, lines: Lines) -> None:
        for number in range(len(self.layout.places.all)):
            lines(f"w{number} = operator.waiting[{number}]")
        lines("touched = operator.touched")
        if self.context.emits:
            lines("queue = operator.queue")
        if self.lazy:
            lines("step = ''")

    def _found(self, lines: Lines) -> None:
        """`found(r, k, ended)`: the run as a match."""
        steps: list[str] = []
        of = self.names.of
        for at, slot in self.layout.slots.items():
            element = self.layout.elements[at]
            steps.append(f"{of(element.name)}: {f'tuple(r[{slot}])' if element.several else f'r[{slot}]'}")
        name, known = of(self.layout.definition.name), of(Found, "t")
        with lines.block("def found(r, k, ended):"):
            lines(f"return {known}(of={name}, key=k, started=r[0], ended=ended, steps={{{', '.join(steps)}}})")

    def _classes(self, lines: Lines) -> None:
        if len(self.classes) == 1 and not self.others:
            self._class(lines, self.classes[0])
            return
        lines("kind = e.__class__")
        word = "if"
        for kind in self.classes:
            with lines.block(f"{word} kind is {self.names.of(kind, 't')}:"):
                self._class(lines, kind)
            word = "elif"

    def _class(self, lines: Lines, kind: type[Event]) -> None:
        Asking(self.context, kind).write(lines, self.react)
