"""`ensue trace`: the tree of causes and effects that an event belongs to, and who made what of what."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import datetime

import click
import msgspec

from ensue.cli.facts import EventFacts, EventReader, correlated, correlation_of, positions_with_id
from ensue.cli.failures import Negative
from ensue.cli.handled import Handled, read_handled
from ensue.cli.output import clean, columns, duration, fit, local_time, many, on_terminal, paint, print_json, say
from ensue.cli.target import OpenLog, Target, log_options, opened
from ensue.events.recorded import microseconds
from ensue.events.stored import Row
from ensue.store.base import Term

__all__ = ["trace"]

PAGE = 1000
ROOTS = 100
"""So many trees are looked for together."""
_STYLES = {"handled": "green", "discarded": "yellow", "retrying": "yellow", "parked": "red bold", "waiting": "yellow"}


class _Traced(EventFacts, frozen=True, kw_only=True):
    """An event and what became of it."""

    deliveries: list[Handled]


class _Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints. `asked` is the position of the event that was named, null for a correlation."""

    asked: int | None
    roots: list[int]
    events: list[_Traced]
    complete: bool


@click.command()
@click.argument("id")
@click.option(
    "--limit", type=click.IntRange(min=1), default=1000, show_default=True, metavar="N", help="At most so many events."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
def trace(id: str, limit: int, as_json: bool) -> None:
    """Show what caused an event, what it caused, who handled it, how long that took and how it ended.

    ID is a position, an event id (or its first digits, if no other begins so), or a correlation id.

    \b
    Example:
      $ ensue trace 17
      $ ensue trace 01a20e1b-c079
    """
    asyncio.run(_trace(Target.chosen(), id, limit, as_json))


async def _trace(target: Target, id: str, limit: int, as_json: bool) -> None:
    async with opened(target) as log:
        asked, roots = await _roots(log, id, limit)
        rows, complete = await _tree(log, roots, asked, limit)
        handled = await read_handled(log.store, log.world, rows)
        reader = EventReader(log)
        await reader.refresh()
        events = [_Traced(**msgspec.structs.asdict(reader.facts(row)), deliveries=handled[row[0]]) for row in rows]
        found = _Trace(asked=asked, roots=[row[0] for row in roots], events=events, complete=complete)
    if as_json:
        print_json(found, pretty=on_terminal())
    else:
        _show(found, id)


async def _row(log: OpenLog, position: int) -> Row | None:
    page = await log.store.read((), after=position - 1, before=position + 1, limit=1)
    return page.rows[0] if page.rows else None


async def _roots(log: OpenLog, text: str, limit: int) -> tuple[int | None, list[Row]]:
    """The event that is asked for, and where its tree begins. A correlation may have several roots, stored together."""
    position = int(text) if text.isdecimal() and not text.startswith("0") and len(text) < 19 else None
    row = await _row(log, position) if position is not None else None
    if row is None:
        found = await positions_with_id(log, text)
        if position is not None and not found:
            await log.store.read((), limit=1)
            raise Negative(f"there is no event at position {position}; {log.url} ends at {log.store.head()}")
        row = await _row(log, found[0]) if found else None
    if row is None:
        correlation, after = await correlated(log, text)
        return None, await _of_correlation(log, correlation, after, limit)
    if row[7] is not None:
        root = await _row(log, row[7])
        return row[0], [row if root is None else root]
    if position is None and correlation_of(row) == row[1]:
        return row[0], await _of_correlation(log, row[1], row[0] - 1, limit)
    return row[0], [row]


async def _of_correlation(log: OpenLog, correlation: bytes, after: int, limit: int) -> list[Row]:
    """The events that began it: the first that carries it, and those of the same write, right behind it."""
    found: list[Row] = []
    while len(found) <= limit:
        page = await log.store.read((), after=after, limit=PAGE)
        for row in page.rows:
            if row[6] is not None or correlation_of(row) != correlation:
                return found
            found.append(row)
        if not page.rows:
            break
        after = page.reached
    return found


async def _tree(log: OpenLog, roots: list[Row], asked: int | None, limit: int) -> tuple[list[Row], bool]:
    """The roots and all that came of them, in log order; the event asked for is among them, whatever the limit."""
    rows = {row[0]: row for row in roots[: limit + 1]}
    for first in range(0, len(roots), ROOTS):
        selection = tuple(Term(root=row[0]) for row in roots[first : first + ROOTS])
        reached = roots[first][0]
        while len(rows) <= limit:
            page = await log.store.read(selection, after=reached, limit=PAGE)
            rows.update((row[0], row) for row in page.rows)
            reached = max(reached, page.reached)
            if reached >= log.store.head():
                break
    kept = [rows[position] for position in sorted(rows)][:limit]
    if asked is not None and all(row[0] != asked for row in kept):
        named = await _row(log, asked)
        kept += [named] if named is not None else []
    return kept, len(rows) <= limit


# ---------------------------------------------------------------------------------------------------------- showing


def _show(found: _Trace, id: str) -> None:
    by_position = {event.position: event for event in found.events}
    effects: dict[int | None, list[_Traced]] = defaultdict(list)
    for event in found.events:
        if event.position not in found.roots:
            effects[event.cause].append(event)
    # A stack instead of recursion: a chain of causes may be a thousand long.
    pending: list[tuple[str, str, _Traced | Handled]] = []
    for event in reversed([event for event in found.events if event.position in found.roots]):
        pending.append(("", "", event))
    while pending:
        lead, indent, item = pending.pop()
        children: list[_Traced | Handled]
        if isinstance(item, _Traced):
            _say(lead, _event(item, by_position, item.position == found.asked))
            known = {delivery.consumer for delivery in item.deliveries}
            children = [*item.deliveries, *(one for one in effects[item.position] if one.maker not in known)]
        else:
            _say(lead, _delivery(item))
            children = [one for one in effects[item.position] if one.maker == item.consumer]
        for number, child in reversed(list(enumerate(children))):
            last = number == len(children) - 1
            pending.append((indent + ("└─ " if last else "├─ "), indent + ("   " if last else "│  "), child))
    if not found.complete:
        say(paint(f"… and more; --limit {10 * len(found.events)} shows further ones of {clean(id)}", "yellow"))


def _say(lead: str, parts: list[tuple[str, str]]) -> None:
    room = columns() - len(lead) if on_terminal() else 1_000_000
    line = paint(lead, "dim")
    for text, style in parts:
        shown = fit(clean(text), max(0, room))
        room -= len(shown)
        line += paint(shown, style)
    say(line)


def _time(text: str | None) -> int:
    return microseconds(datetime.fromisoformat(text)) if text is not None else 0


def _event(event: _Traced, by_position: dict[int, _Traced], asked: bool) -> list[tuple[str, str]]:
    cause = by_position.get(event.cause) if event.cause is not None else None
    recorded = _time(event.recorded_at)
    since = f"+{duration((recorded - _time(cause.recorded_at)) / 1e6)}" if cause is not None else local_time(recorded)
    return [
        (f"{event.position} ", "cyan"),
        (event.type, "bold"),
        (f"  {event.key}" if event.key else "", ""),
        (f"  {since}", "dim"),
        ("  ◀ this one" if asked else "", "yellow"),
        (f"  {event.payload}", "dim"),
    ]


def _delivery(one: Handled) -> list[tuple[str, str]]:
    """`take_payment: handled in 12 ms at attempt 3, 1.2 s after the event`."""
    words = ""
    if one.seconds is not None and one.outcome in ("handled", "discarded"):
        words += f" in {duration(one.seconds)}"
    if one.attempts > 1 or one.outcome in ("retrying", "parked"):
        words += f" after {many(one.attempts, 'attempt')}"
    if one.latency_seconds is not None:
        words += f", {duration(one.latency_seconds)} after the event"
    if one.due_at is not None:
        words += f", next at {local_time(_time(one.due_at))}"
    if one.dead_letter is not None:
        words += f": dead letter {one.dead_letter}"
    reason = f": {one.reason}" if one.reason else ""
    return [(f"{one.consumer} ", ""), (one.outcome, _STYLES.get(one.outcome, "dim")), (words + reason, "dim")]
