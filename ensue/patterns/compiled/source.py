"""Python source from expressions. Every constant, type and function is given by reference: no value becomes text."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any as AnyValue

from ensue.patterns.expressions import (
    Aggregated,
    All,
    Any,
    Bound,
    Candidate,
    Constant,
    Expression,
    Field,
    IsA,
    Not,
    Operation,
    Present,
    When,
    walk,
)

__all__ = ["Lines", "Names", "Steps", "Writer", "fields_of", "identifier"]


class Names:
    """The values that a source refers to, each by a name of its own."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self._known: dict[int, str] = {}

    def of(self, value: object, prefix: str = "c") -> str:
        known = self._known.get(id(value))
        if known is not None:
            return known
        name = f"{prefix}{len(self.values)}"
        self.values[name] = value  # which also keeps it alive, so that its id stays its own
        self._known[id(value)] = name
        return name


class Lines:
    """Source being written, line by line."""

    def __init__(self, depth: int = 0) -> None:
        self._lines: list[str] = []
        self._depth = depth

    def __call__(self, line: str) -> None:
        self._lines.append("    " * self._depth + line)

    @contextmanager
    def block(self, line: str) -> Generator[None]:
        """What is written within is behind this line, and further in. Without any, it is `pass`."""
        self(line)
        before = len(self._lines)
        self._depth += 1
        yield
        if len(self._lines) == before:
            self("pass")
        self._depth -= 1

    @property
    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


class Steps:
    """How a source reads what was taken before. As it is: a condition on the event alone, which reads nothing."""

    def event(self, step: str, index: int | None) -> str:
        raise LookupError(step)

    def present(self, step: str) -> str:
        """`True` or `False` where that is known where it is written."""
        raise LookupError(step)

    def aggregated(self, of: Aggregated) -> str:
        raise LookupError(of.step)


class Writer:
    """Writes expressions over one event, whose fields that stand in `fields` have names of their own.

    Errors: `LookupError` for what cannot be read here.
    """

    def __init__(self, names: Names, candidate: str, steps: Steps, fields: dict[str, str] | None = None) -> None:
        self.names, self.candidate, self.steps = names, candidate, steps
        self.fields = {} if fields is None else fields

    def write(self, expression: Expression) -> str:
        """Always one operand: in brackets where it needs them."""
        match expression:
            case Candidate():
                return self.candidate
            case Bound(step, index):
                return self.steps.event(step, index)
            case Field(Candidate(), name) if name in self.fields:
                return self.fields[name]
            case Field(of, name):
                return f"{self.write(of)}.{identifier(name)}"
            case Constant(value):
                return self.names.of(value)
            case Present(step):
                return self.steps.present(step)
            case Aggregated():
                return self.steps.aggregated(expression)
            case IsA(of, kind):
                return f"{self.names.of(isinstance, 'f')}({self.write(of)}, {self.names.of(kind, 't')})"
            case Not(of):
                said = self.write(of)
                return {"True": "False", "False": "True"}.get(said, f"(not {said})")
            case All(of):
                return _joined("and", list(map(self.write, of)), nothing="True", ends="False")
            case Any(of):
                return _joined("or", list(map(self.write, of)), nothing="False", ends="True")
            case When(condition, yes, no):
                asked = self.write(condition)
                if asked in ("True", "False"):
                    return self.write(yes if asked == "True" else no)
                return f"({self.write(yes)} if {asked} else {self.write(no)})"
            case Operation("neg", (of,)):
                return f"(-{self.write(of)})"
            case Operation("abs" | "min" | "max" as function, of):
                return f"{self.names.of(_FUNCTIONS[function], 'f')}({', '.join(map(self.write, of))})"
            case Operation(operator, (left, right)):
                return f"({self.write(left)} {operator} {self.write(right)})"
            case _:
                raise LookupError(repr(expression))


def _joined(word: str, parts: list[str], *, nothing: str, ends: str) -> str:
    """Without what is known where it is written. What stands behind an end is never asked."""
    left = parts[: parts.index(ends) + 1] if ends in parts else parts
    left = [part for part in left if part != nothing]
    return f"({f' {word} '.join(left)})" if len(left) > 1 else (left[0] if left else nothing)


_FUNCTIONS: dict[str, Callable[..., AnyValue]] = {"abs": abs, "min": min, "max": max}


def fields_of(expression: Expression) -> Iterator[str]:
    """The fields of the event that it reads, each time it does."""
    for one in walk(expression):
        match one:
            case Field(Candidate(), name):
                yield name
            case _:
                pass


def identifier(name: str) -> str:
    """The name of a field, as it may stand in a source. Errors: `LookupError` for what is none."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise LookupError(name)
    return name
