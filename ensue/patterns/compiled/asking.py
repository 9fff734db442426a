"""What the program of a pattern asks an event by itself: conditions that see nothing but the event, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ensue.events.message import Event
from ensue.patterns.analysis import contradictory
from ensue.patterns.compiled.layout import Layout, sorted_places
from ensue.patterns.compiled.relevance import Test, parts_of, seen_alone, test_of
from ensue.patterns.compiled.source import Lines, Names, Steps, Writer, fields_of
from ensue.patterns.definition import Definition, Element, Take

__all__ = ["Asking", "Context"]


class Context:
    """What all parts of one program have in common. `lazy`: it asks nothing that is not needed."""

    def __init__(self, layout: Layout, *, lazy: bool) -> None:
        self.layout, self.lazy = layout, lazy
        self.places, self.elements = layout.places, layout.elements
        self.definition: Definition = layout.definition
        self.names = Names()
        self.emits = layout.deadlines != "none"
        self.sorted = sorted_places(layout)


class Asking:
    """What is done with events of one class."""

    def __init__(self, context: Context, kind: type[Event]) -> None:
        self.context, self.kind = context, kind
        self.layout, self.names = context.layout, context.names
        self.elements, self.places = context.elements, context.places
        self.tests: dict[Test, str] = {}
        """What is asked of the event alone: conditions, and the name of the answer."""
        self.fields: dict[str, str] = {}
        self.takes = {at: self._test(element) for at, element in enumerate(self.elements)}
        self.untils = {at: self._until(element) for at, element in enumerate(self.elements)}
        self.truth: dict[str, bool] = {}

    # ---------------------------------------------------------------------------- conditions on the event alone

    def _accepted(self, element: Element) -> bool:
        return isinstance(element.node, Take) and issubclass(self.kind, element.node.events)

    def _test(self, element: Element) -> str | None:
        """The name of the answer whether the event could be one of the element's, as far as that depends on it alone."""
        if not self._accepted(element):
            return None
        assert isinstance(element.node, Take)
        return self._named(test_of(element.node))

    def _until(self, element: Element) -> str | None:
        return None if element.until is None or not self._accepted(element) else self._named(parts_of(element.until))

    def _named(self, said: Test) -> str:
        return self.tests.setdefault(said, f"u{len(self.tests)}") if said else "True"

    def _asked(self, said: Test) -> str:
        """The source of a test."""
        writer = Writer(self.names, "e", Steps(), self.fields)
        return " and ".join(self.asked_part(one, writer) for one in said)

    def asked_part(self, part: Any, writer: Writer) -> str:
        """The source of a part of a condition."""
        return f"{self.names.of(part, 'f')}(e)" if callable(part) else writer.write(part)

    def _hoist(self, lines: Lines, *, drops: bool) -> None:
        """Fields that are read more than once have names of their own. Where no event is dropped, conditions on runs read them too."""
        read = [name for said in self.tests for one in said if not callable(one) for name in fields_of(one)]
        for element in self.elements if not drops else ():
            if self._accepted(element) and isinstance(element.node, Take):
                parts = [part for one in element.node.conditions for part in parts_of(one) if not seen_alone(part, one)]
                read += [name for part in parts if not callable(part) for name in fields_of(part)]
        for name in dict.fromkeys(read):
            if read.count(name) > 1 and name in self.kind.__struct_fields__:
                lines(f"f{len(self.fields)} = e.{name}")
                self.fields[name] = f"f{len(self.fields)}"

    def write(self, lines: Lines, react: Callable[[Asking, Lines], None]) -> None:
        relevant = {name for name in (*self.takes.values(), *self.untils.values()) if name is not None}
        if self.context.lazy:
            react(self, lines)
            return
        tests = {said: name for said, name in self.tests.items() if name in relevant}
        drops = not self.places.strict and "True" not in relevant
        self._hoist(lines, drops=drops)
        if _exclude_each_other(tests) and len(tests) <= 8:
            word = "if"
            for said, name in tests.items():
                self.truth = {other: other == name for other in tests.values()}
                with lines.block(f"{word} {self._asked(said)}:"):
                    react(self, lines)
                word = "elif"
            if not drops:
                self.truth = dict.fromkeys(tests.values(), False)
                if tests:
                    with lines.block("else:"):
                        react(self, lines)
                else:
                    react(self, lines)
            self.truth = {}
            return
        opaque = any(callable(one) for said in tests for one in said)
        if drops and not opaque:
            with lines.block(f"if not ({' or '.join(f'({self._asked(said)})' for said in tests)}):"):
                lines("continue")
        for said, name in tests.items():
            lines(f"{name} = {self._asked(said)}")
        if drops and opaque:
            with lines.block(f"if not ({' or '.join(tests.values())}):"):
                lines("continue")
        react(self, lines)

    def answer(self, name: str | None) -> str:
        """The source of a test's answer: False, True, its name, or in a careful program the test itself."""
        if name is None:
            return "False"
        if name == "True":
            return name
        if name in self.truth:
            return str(self.truth[name])
        if not self.context.lazy:
            return name
        return f"({self._asked(next(said for said, known in self.tests.items() if known == name))})"


def _exclude_each_other(tests: Iterable[Test]) -> bool:
    said = list(tests)
    for at, one in enumerate(said):
        for other in said[:at]:
            if any(callable(part) for part in (*one, *other)):
                return False
            if not contradictory([part for part in (*one, *other) if not callable(part)]):
                return False
    return True
