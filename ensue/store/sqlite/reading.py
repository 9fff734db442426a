"""Selections as SQL: every term becomes look-ups in one index, merged in position order.

The text of a statement depends on the shape of a selection only; all values are bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import apsw

from ensue.store.base import Selection, Term

__all__ = ["COLUMNS", "first", "rows", "select"]

COLUMNS = "position, id, type, stream, version, recorded_at, cause, root, maker, nth, meta, data"
UNITED = 400
_IN_STREAM = "stream = ?"
_TAGGED = "EXISTS (SELECT 1 FROM ensue_event_tag t WHERE t.tag = ? AND t.position = e.position)"
_OF_STREAM = "EXISTS (SELECT 1 FROM ensue_event s WHERE s.position = e.position AND s.stream = ?)"
Numbers = Callable[[Sequence[str]], Sequence[int]]


def first(sql: apsw.Connection, statement: str, values: Sequence[object]) -> Any:
    """The first row, or None. Read to the end: an error that is raised keeps an open statement alive, and that keeps its
    snapshot, with which nothing more could be written."""
    found = list(sql.execute(statement, values))
    return found[0] if found else None


_HAS_TAG = "SELECT 1 FROM ensue_event_tag WHERE tag = ? AND position > ? AND position < ? LIMIT 1"


def rows(
    sql: apsw.Connection,
    selection: Selection,
    numbers: Numbers,
    *,
    after: int,
    before: int,
    limit: int,
    backwards: bool,
) -> list[Any]:
    """At most `limit` rows with `after` < position < `before`, which is at most behind the head."""
    if len(selection) == 1 and len(selection[0].tags) == 1 and selection[0].root is None:
        (tag,), types = selection[0].tags, list(numbers(selection[0].types))
        if selection[0].types and not types:
            return []
        # Mostly a tag is a key, or it is none: two small statements are half as much work as one that looks for both.
        if first(sql, _HAS_TAG, (tag, after, before)) is None:
            return list(sql.execute(_of_stream(len(types), backwards), (tag, *types, after, before, limit)))
    text, values = select(selection, numbers, after=after, before=before, limit=limit, backwards=backwards)
    return list(sql.execute(text, values))


@lru_cache(maxsize=256)
def _of_stream(types: int, backwards: bool) -> str:
    of_type = f" AND +type IN ({', '.join('?' * types)})" if types else ""
    return (
        f"SELECT {COLUMNS} FROM ensue_event WHERE stream = ?{of_type} AND position > ? AND position < ? "
        f"ORDER BY position {'DESC' if backwards else 'ASC'} LIMIT ?"
    )


def select(
    selection: Selection, numbers: Numbers, *, after: int, before: int, limit: int, backwards: bool
) -> tuple[str, list[object]]:
    """One statement for at most `limit` rows with `after` < position < `before`. `numbers` gives those of type names."""
    order = "DESC" if backwards else "ASC"
    if not selection:
        text = (
            f"SELECT {COLUMNS} FROM ensue_event WHERE position > ? AND position < ? ORDER BY position {order} LIMIT ?"
        )
        return text, [after, before, limit]
    parts: list[str] = []
    values: list[object] = []
    for term in selection:
        _term(term, numbers, after, before, limit, order, parts, values)
    if not parts:
        return f"SELECT {COLUMNS} FROM ensue_event WHERE 0", []
    if len(parts) == 1 and parts[0].startswith("SELECT position FROM ensue_event "):
        return parts[0].replace("SELECT position", f"SELECT {COLUMNS}", 1), values
    text = f"SELECT {COLUMNS} FROM ensue_event WHERE position IN ({_union(parts)}) ORDER BY position {order} LIMIT ?"
    return text, [*values, limit]


def _union(parts: list[str]) -> str:
    """In groups, because SQLite takes at most 500 at once."""
    selects = [f"SELECT position FROM ({part})" for part in parts]
    while len(selects) > UNITED:
        groups = (selects[first : first + UNITED] for first in range(0, len(selects), UNITED))
        selects = [f"SELECT position FROM ({' UNION '.join(group)})" for group in groups]
    return " UNION ".join(selects)


def _term(
    term: Term,
    numbers: Numbers,
    after: int,
    before: int,
    limit: int,
    order: str,
    parts: list[str],
    values: list[object],
) -> None:
    types = list(numbers(term.types))
    if term.types and not types:
        return
    span = f"position > ? AND position < ? ORDER BY position {order} LIMIT ?"
    bounds: list[object] = [after, before, limit]
    if not term.tags and term.root is None:
        if not types:
            parts.append(f"SELECT position FROM ensue_event WHERE {span}")
            values.extend(bounds)
        for number in types:
            parts.append(f"SELECT position FROM ensue_event WHERE type = ? AND {span}")
            values.extend([number, *bounds])
        return
    tags = tuple(dict.fromkeys(term.tags))
    # The plus keeps the planner from walking all events of a type, which may be most of the log.
    of_type = f" AND +type IN ({', '.join('?' * len(types))})" if types else ""
    if term.root is not None:
        filters = of_type + f" AND ({_IN_STREAM} OR {_TAGGED})" * len(tags)
        parts.append(f"SELECT position FROM ensue_event e WHERE root = ?{filters} AND {span}")
        values.extend([term.root, *types, *(tag for tag in tags for _ in range(2)), *bounds])
        return
    # An event carries a tag as its key, found through its stream, or as a further tag, found through the tag table.
    first, others = tags[0], tags[1:]
    filters = of_type + f" AND {_TAGGED}" * len(others)
    parts.append(f"SELECT position FROM ensue_event e WHERE stream = ?{filters} AND {span}")
    values.extend([first, *types, *others, *bounds])
    filters = of_type + f" AND ({_OF_STREAM} OR {_TAGGED})" * len(others)
    parts.append(f"SELECT position FROM ensue_event_tag e WHERE tag = ?{filters} AND {span}")
    values.extend([first, *types, *(tag for tag in others for _ in range(2)), *bounds])
