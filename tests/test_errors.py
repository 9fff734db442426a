"""The tree of errors: what the caller can do is where an error stands, and its message says the rest."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

import ensue
from ensue import errors
from ensue.errors import Conflict, EnsueError, GiveUp, HandlerFailed, Misuse, Refusal, TryAgain

SOURCE = Path(inspect.getfile(ensue)).parent
CLASSES: list[type[Exception]] = [vars(errors)[name] for name in errors.__all__]
OURS = {error.__name__ for error in CLASSES if issubclass(error, EnsueError)}


def drawn(text: str) -> Iterator[tuple[str, str]]:
    """(class, its base) for each line of the tree in the docstring."""
    above: dict[int, str] = {0: "EnsueError"}
    for line in text.splitlines():
        found = re.match(r" {4}((?:│   |    )*)[├└]── (\w+)", line)
        if found:
            depth = len(found[1]) // 4 + 1
            above[depth] = found[2]
            yield found[2], above[depth - 1]


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    real = {
        error.__name__: error.__bases__[0].__name__
        for error in CLASSES
        if issubclass(error, EnsueError) and error is not EnsueError
    }
    assert dict(drawn(errors.__doc__ or "")) == real


def test_every_error_is_one_that_can_be_fixed_tried_again_or_given_up() -> None:
    for error in CLASSES:
        if error not in (EnsueError, Refusal):
            assert sum(issubclass(error, kind) for kind in (Misuse, TryAgain, GiveUp)) == 1


def test_a_refusal_is_no_failure_of_ensue() -> None:
    assert not issubclass(Refusal, EnsueError)


@functools.cache
def raised() -> list[tuple[str, str, str]]:
    """(where, class, text) of each error of ours that is made with a text written in place, anywhere in the package."""
    found: list[tuple[str, str, str]] = []
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OURS and node.args:
                text = said(node.args[0])
                if text is not None:
                    found.append((f"{file.relative_to(SOURCE)}:{node.lineno}", node.func.id, text))
    return found


def said(node: ast.expr) -> str | None:
    """The words of a text, with … for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp):
        left, right = said(node.left), said(node.right)
        return None if left is None and right is None else f"{left or '…'}{right or '…'}"
    return None


def test_every_message_is_a_sentence_that_says_more_than_a_name() -> None:
    short = [f"{where} {name}: {text}" for where, name, text in raised() if len(text.split()) < 4 and "…" not in text]
    assert not short, "\n".join(short)


def test_messages_begin_small_or_with_a_name_and_do_not_shout() -> None:
    wrong = [f"{where} {text}" for where, _, text in raised() if re.match(r"[A-Z][a-z]+ ", text) or text.endswith("!")]
    assert not wrong, "\n".join(wrong)


def test_facts_of_an_error_are_attributes_too() -> None:
    conflict = Conflict("the stream is at version 3, expected was 2", expected=2, actual=3)
    assert (str(conflict), conflict.expected, conflict.actual) == ("the stream is at version 3, expected was 2", 2, 3)
    failed = HandlerFailed("waited in vain", consumer="charge", position=7, dead_letter=2)
    assert (failed.consumer, failed.position, failed.dead_letter) == ("charge", 7, 2)


class Overdrawn(Refusal):
    available: Decimal
    account: str = "main"


def test_a_refusal_has_fields_and_shows_them() -> None:
    refusal = Overdrawn(available=Decimal("1.50"))
    assert (refusal.available, refusal.account) == (Decimal("1.50"), "main")
    assert str(refusal) == "Overdrawn(available=Decimal('1.50'), account='main')"
    with pytest.raises(TypeError):
        Overdrawn()  # type: ignore[call-arg]


@pytest.mark.parametrize("error", sorted(OURS))
def test_every_error_has_a_docstring_and_can_be_caught_by_its_group(error: str) -> None:
    kind = vars(errors)[error]
    assert kind.__doc__
    assert issubclass(kind, EnsueError)
