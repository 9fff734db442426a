"""`ensue log`: what happened, as text or JSON lines, as long as it goes on and in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import click

from ensue.cli.facts import EventReader, correlated, correlation_of, instant_of
from ensue.cli.failures import WrongUsage
from ensue.cli.output import columns, exact_time, fit, flush, local_time, on_terminal, paint, print_json, say
from ensue.cli.target import OpenLog, Target, log_options, opened
from ensue.events.stored import Row, tag_hash
from ensue.store.base import Selection, Term

__all__ = ["log"]

PAGE = 1000


@click.command()
@click.option("--type", "types", multiple=True, metavar="NAME", help="Only events of this type; again for several.")
@click.option("--tag", "--key", "tags", multiple=True, metavar="NAME=VALUE", help="Only events with this key or tag.")
@click.option("--correlation", metavar="ID", help="Only what belongs to this correlation, or to that of this event.")
@click.option(
    "--from", "start", metavar="PLACE", help="Begin at a position or a time: 17, 10m, 14:30, 2026-05-01T14:30."
)
@click.option("--last", "-n", type=click.IntRange(min=1), metavar="N", help="Only the last N.")
@click.option("--backwards", is_flag=True, help="The newest first.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is appended, until Ctrl-C.")
@click.option(
    "--archive",
    "archives",
    multiple=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Show events that are in this archive as they were; again for several.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@log_options
def log(
    types: tuple[str, ...],
    tags: tuple[str, ...],
    correlation: str | None,
    start: str | None,
    last: int | None,
    backwards: bool,
    follow: bool,
    archives: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Show what happened: all events, or those that match, oldest first.

    \b
    Example:
      $ ensue log --last 20 --follow
      $ ensue log --type OrderPlaced --key order_id=o1
      $ ensue log --from 10m --json | jq .event

    Times without an offset are local; 10m is ten minutes ago. Several --type mean any of them, several --tag all of them.
    """
    if follow and backwards:
        raise WrongUsage("--follow goes forwards for ever, and --backwards comes to an end; leave one of them out")
    asyncio.run(_log(Target.chosen(), types, tags, correlation, start, last, backwards, follow, archives, as_json))


async def _log(
    target: Target,
    types: tuple[str, ...],
    tags: tuple[str, ...],
    correlation: str | None,
    start: str | None,
    last: int | None,
    backwards: bool,
    follow: bool,
    archives: Sequence[Path],
    as_json: bool,
) -> None:
    async with opened(target, archives=archives) as log:
        wanted: Callable[[Row], bool] = _anything
        after = await _start(log, start)
        if correlation is not None:
            id, before_it = await correlated(log, correlation)
            wanted, after = _of_correlation(id), max(after, before_it)
        query = _Query(log, await _selection(log, types, tags, follow), wanted)
        if last is not None and not backwards:
            after = await query.before_last(last, after)
        show = _json if as_json else _coloured_line if on_terminal() else _line
        reader, shown = EventReader(log), 0
        async for rows in query.pages(after, backwards=backwards, follow=follow):
            await reader.refresh()
            for row in rows:
                show(reader, row)
                shown += 1
                if backwards and shown == last:
                    return
            flush()


async def _start(log: OpenLog, text: str | None) -> int:
    if text is None:
        return 0
    if text.isdecimal():
        return max(0, int(text) - 1)
    time = instant_of(text, log.world)
    if time is None:
        raise WrongUsage(f"{text!r} is neither a position nor a time; times look like 10m, 14:30 or 2026-05-01T14:30")
    await log.store.read((), limit=1)  # the head of now, so that the search covers all of the log
    return await log.store.position_at(time)


async def _selection(log: OpenLog, types: tuple[str, ...], tags: tuple[str, ...], follow: bool) -> Selection:
    known = {name for name, _ in (await log.store.types()).values()}
    for name in types:
        declared = log.registry is not None and log.registry.knows(name)
        if name not in known and not declared and not follow:
            listed = ", ".join(sorted(known)) or "none yet"
            raise WrongUsage(f"no event type of this log is called {name!r}; there are: {listed}")
    for tag in tags:
        if not tag.partition("=")[0].isidentifier() or "=" not in tag:
            raise WrongUsage(f"{tag!r} is not a key or tag; write it as name=value, such as order_id=o1")
    return (Term(types=types, tags=tuple(map(tag_hash, tags))),) if types or tags else ()


def _anything(row: Row) -> bool:
    return True


def _of_correlation(id: bytes) -> Callable[[Row], bool]:
    return lambda row: correlation_of(row) == id


class _Query:
    """What is looked for, read in pages."""

    def __init__(self, log: OpenLog, selection: Selection, wanted: Callable[[Row], bool]) -> None:
        self._store = log.store
        self._selection = selection
        self._wanted = wanted

    async def pages(self, after: int, *, backwards: bool, follow: bool = False) -> AsyncIterator[list[Row]]:
        last, before = after, None
        while True:
            page = await self._store.read(self._selection, after=last, before=before, limit=PAGE, backwards=backwards)
            rows = [row for row in page.rows if self._wanted(row)]
            if rows:
                yield rows
            if backwards:
                before = page.reached
                if not page.rows or page.reached <= after + 1:
                    return
                continue
            last = max(last, page.reached)
            if last < self._store.head():
                continue
            if not follow:
                return
            await self._store.changed(last)

    async def before_last(self, count: int, after: int) -> int:
        """The position before the last `count`: walked to, so that nothing has to be kept."""
        seen, first = 0, after
        async for rows in self.pages(after, backwards=True):
            for row in rows:
                seen, first = seen + 1, row[0] - 1
                if seen == count:
                    return first
        return first


def _json(reader: EventReader, row: Row) -> None:
    print_json(reader.facts(row))


def _line(reader: EventReader, row: Row) -> None:
    """Tab-separated: position, time, type, key, cause, payload."""
    name, key, cause, payload = reader.line(row)
    say(f"{row[0]}\t{exact_time(row[5]) or row[5]}\t{name}\t{key}\t{cause}\t{payload}")


def _coloured_line(reader: EventReader, row: Row) -> None:
    name, key, cause, payload = reader.line(row)
    width, time = columns(), local_time(row[5])
    position = f"{row[0]:>7}"
    cause = f"{'← ' + cause if cause else '':<{len(position) + 2}}  "
    if width < 120:
        time = time[11:]
    if width < 100:
        name, key, cause = fit(name, 20), fit(key, 20), ""
    name, key = f"{name:<18}", f"{key:<16}"
    payload = fit(payload, width - len(position) - len(time) - len(name) - len(key) - len(cause) - 8)
    style = "red" if payload.startswith("<") else "dim"
    say(
        f"{position}  {paint(time, 'dim')}  {paint(name, 'bold')}  {paint(key, 'cyan')}  "
        f"{paint(cause, 'dim')}{paint(payload, style)}"
    )
