"""Selections as SQL: every term becomes look-ups in one index, merged in position order.

The text of a statement depends on the shape of a selection only; all values are bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ensue.store.base import Selection, Term

__all__ = ["COLUMNS", "select"]

COLUMNS = "position, id, type, stream, version, recorded_at, cause, root, maker, nth, meta, data"
Numbers = Callable[[Sequence[str]], Sequence[int]]


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
    union = " UNION ".join(f"SELECT position FROM ({part})" for part in parts)
    text = f"SELECT {COLUMNS} FROM ensue_event WHERE position IN ({union}) ORDER BY position {order} LIMIT ?"
    return text, [*values, limit]


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
    filters, filter_values = _filters(term, types)
    if term.root is not None:
        parts.append(f"SELECT position FROM ensue_event WHERE root = ? {filters} AND {span}")
        values.extend([term.root, *filter_values, *bounds])
        return
    # An event carries a tag as its key, found through its stream, or as a further tag, found through the tag table.
    tag = term.tags[0]
    parts.append(f"SELECT position FROM ensue_event WHERE stream = ? {filters} AND {span}")
    values.extend([tag, *filter_values, *bounds])
    tagged = "SELECT position FROM ensue_event_tag WHERE tag = ? AND position > ? AND position < ?"
    parts.append(f"SELECT position FROM ensue_event WHERE position IN ({tagged}) {filters} AND {span}")
    values.extend([tag, after, before, *filter_values, *bounds])


def _filters(term: Term, types: list[int]) -> tuple[str, list[object]]:
    text, values = "", list[object]()
    if types:
        text += f" AND type IN ({', '.join('?' * len(types))})"
        values.extend(types)
    for tag in term.tags[1:] if term.root is None else term.tags:
        text += (
            " AND (stream = ? OR EXISTS (SELECT 1 FROM ensue_event_tag x "
            "WHERE x.tag = ? AND x.position = ensue_event.position))"
        )
        values.extend([tag, tag])
    return text, values
