"""Selections as SQL: every term becomes look-ups in one index, merged in position order.

The text of a statement depends on the shape of a selection only; all values are bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from ensue.store.base import Selection, Term
from ensue.store.postgresql.session import Call, Statement

__all__ = ["COLUMNS", "select"]

COLUMNS = "position, id, type, stream, version, recorded_at, cause, root, maker, nth, meta, data"
_TAGGED = "EXISTS (SELECT FROM ensue_event_tag t WHERE t.tag = {} AND t.position = e.position)"
_OF_STREAM = "EXISTS (SELECT FROM ensue_event s WHERE s.position = e.position AND s.stream = {})"
Numbers = Callable[[Sequence[str]], Sequence[int]]


_NOTHING = Statement(f"SELECT {COLUMNS} FROM ensue_event WHERE false")()


class _Text:
    """A statement as it grows, with the values of its parameters."""

    def __init__(self) -> None:
        self.values: list[object] = []

    def bind(self, value: object, kind: str) -> str:
        self.values.append(value)
        return f"${len(self.values)}::{kind}"


@lru_cache(maxsize=512)
def _statement(text: str) -> Statement:
    return Statement(text)


def select(selection: Selection, numbers: Numbers, *, after: int, before: int, limit: int, backwards: bool) -> Call:
    """One statement for at most `limit` rows with `after` < position < `before`. `numbers` gives those of type names."""
    text = _Text()
    order = "DESC" if backwards else "ASC"
    span = (
        f"e.position > {text.bind(after, 'bigint')} AND e.position < {text.bind(before, 'bigint')} "
        f"ORDER BY e.position {order} LIMIT {text.bind(limit, 'bigint')}"
    )
    if not selection:
        return _statement(f"SELECT {COLUMNS} FROM ensue_event e WHERE {span}")(*text.values)
    parts: list[str] = []
    for term in selection:
        _term(term, numbers, span, text, parts)
    if not parts:
        return _NOTHING
    if len(parts) == 1 and parts[0].startswith("SELECT e.position FROM ensue_event e "):
        return _statement(parts[0].replace("e.position", COLUMNS, 1))(*text.values)
    union = " UNION ".join(f"({part})" for part in parts)
    return _statement(
        f"SELECT {COLUMNS} FROM ensue_event WHERE position IN "
        f"(SELECT position FROM ({union}) u ORDER BY position {order} LIMIT $3::bigint) ORDER BY position {order}"
    )(*text.values)


def _term(term: Term, numbers: Numbers, span: str, text: _Text, parts: list[str]) -> None:
    types = list(numbers(term.types))
    if term.types and not types:
        return
    if not term.tags and term.root is None:
        if not types:
            parts.append(f"SELECT e.position FROM ensue_event e WHERE {span}")
        for number in types:  # one look-up a type: a list of types would be found in no order and sorted
            parts.append(
                f"SELECT e.position FROM ensue_event e WHERE e.type = {text.bind(number, 'integer')} AND {span}"
            )
        return
    tags = tuple(dict.fromkeys(term.tags))
    bound = [text.bind(tag, "bytea") for tag in tags]
    # Adding nothing keeps the planner from walking all events of a type, which may be most of the log.
    of_type = f" AND e.type + 0 = ANY({text.bind(types, 'integer[]')})" if types else ""
    either = "".join(f" AND ({_OF_STREAM.format(tag)} OR {_TAGGED.format(tag)})" for tag in bound[1:])
    if term.root is not None:
        filters = "".join(f" AND (e.stream = {tag} OR {_TAGGED.format(tag)})" for tag in bound)
        root = text.bind(term.root, "bigint")
        parts.append(f"SELECT e.position FROM ensue_event e WHERE e.root = {root}{of_type}{filters} AND {span}")
        return
    # An event carries a tag as its key, found through its stream, or as a further tag, found through the tag table.
    others = "".join(f" AND {_TAGGED.format(tag)}" for tag in bound[1:])
    parts.append(f"SELECT e.position FROM ensue_event e WHERE e.stream = {bound[0]}{of_type}{others} AND {span}")
    parts.append(f"SELECT e.position FROM ensue_event_tag e WHERE e.tag = {bound[0]}{of_type}{either} AND {span}")
