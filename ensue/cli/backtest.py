"""`ensue backtest`: what a pattern would have found in a file of rows or in a log, and what another version of it finds instead."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click
import msgspec

from ensue.cli.failures import NEGATIVE, WrongUsage
from ensue.cli.loading import load_pattern
from ensue.cli.output import Progress, clean, many, on_terminal, paint, print_json, say, table
from ensue.cli.target import Target, log_options, opened
from ensue.events.message import Event, declaration
from ensue.events.personal import personal_fields
from ensue.events.registry import Registry
from ensue.patterns import Pattern
from ensue.patterns.history.backtest import Backtest, Difference, backtest_log, compare
from ensue.patterns.history.backtest import backtest as backtest_file
from ensue.patterns.history.rows import Unit
from ensue.patterns.history.tables import Columns, Unread

__all__ = ["backtest", "match_facts", "match_text"]

SHOWN_UNREAD = 10
LIMIT = 100


@click.command()
@click.argument("pattern", metavar="MODULE:PATTERN")
@click.argument("source", metavar="FILE|URL")
@click.option("--time", metavar="COLUMN", help="The column with the time; by default `time` or `timestamp`.")
@click.option("--key", metavar="COLUMN", help="The column with the key.")
@click.option("--event", metavar="NAME", help="The event type of all rows, where the pattern looks at several.")
@click.option("--kind", metavar="COLUMN", help="The column that names the event type of each row.")
@click.option(
    "--field", "fields", multiple=True, metavar="FIELD=COLUMN", help="Another column for a field; again for more."
)
@click.option("--value", "values", multiple=True, metavar="FIELD=TEXT", help="A field of every row; again for more.")
@click.option("--timezone", metavar="ZONE", help="Of times without an offset, such as Europe/Berlin.")
@click.option("--unit", type=click.Choice(get_args(Unit)), help="Of times that are numbers since 1970.")
@click.option("--against", metavar="MODULE:PATTERN", help="Another version: show what only one of them finds.")
@click.option("--limit", type=click.IntRange(min=0), default=LIMIT, help=f"Show so many matches; {LIMIT} by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
@click.pass_context
def backtest(
    context: click.Context,
    /,
    pattern: str,
    source: str,
    against: str | None,
    limit: int,
    as_json: bool,
    **columns: Any,
) -> None:
    """Show what a pattern would have found in the rows of a file (.csv, .tsv, .jsonl, also .gz; .parquet), or in a log.

    A field of an event is read from the column of its name. Rows that cannot be read are told, and make the exit code 1. Time ends with the
    last event: an absence that would be certain only later is not found.

    \b
    Examples:
      $ ensue backtest plant:Silence readings.csv --time timestamp --key sensor --timezone Europe/Berlin
      $ ensue backtest shop:Unpaid sqlite:///shop.db --json
      $ ensue backtest fraud:Newer payments.parquet --against fraud:TestedThenUsed
    """
    patterns = [load_pattern(one) for one in (pattern, against) if one is not None]
    found = [_run(one, source, columns, None if against else limit) for one in patterns]
    if against is None:
        _tell(found[0], source, as_json)
    else:
        _tell_difference(found[0], found[1], compare(*found), limit, as_json)
    if any(one.unread_rows for one in found):
        context.exit(NEGATIVE)


def _run(pattern: type[Pattern], source: str, columns: Mapping[str, Any], limit: int | None) -> Backtest[Pattern]:
    progress = Progress(f"reading for {pattern.__name__}")
    try:
        if "://" in source:
            if any(columns.values()):
                raise WrongUsage(
                    f"{source} is a log, whose events have no columns: --time, --key and the like are for files"
                )
            return asyncio.run(_in_log(pattern, source, limit, progress))
        return backtest_file(pattern, _file(source), _columns(pattern, columns), limit=limit, progress=progress)
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{source} cannot be read: {error}") from None
    finally:
        progress.end()


def _file(source: str) -> Path:
    path = Path(source)
    if not path.is_file():
        raise WrongUsage(f"there is no file {source!r}; a log is named by its URL, such as sqlite:///shop.db")
    return path


async def _in_log(pattern: type[Pattern], url: str, limit: int | None, progress: Progress) -> Backtest[Pattern]:
    async with opened(Target.chosen(url)) as log:
        registry = log.registry or Registry()
        registry.covering(pattern.__ensue_pattern__.events)
        return await backtest_log(pattern, log.store, registry, log.world, limit=limit, progress=progress)


def _columns(pattern: type[Pattern], options: Mapping[str, Any]) -> Columns:
    timezone = options["timezone"]
    try:
        zone = None if timezone is None else ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError):
        raise WrongUsage(
            f"--timezone {timezone}: no such timezone is known; one is called Europe/Berlin, or UTC"
        ) from None
    return Columns(
        time=options["time"],
        key=options["key"],
        event=_event(pattern, options["event"]),
        kind=options["kind"],
        fields=dict(_pair("--field", one) for one in options["fields"]),
        values=dict(_pair("--value", one) for one in options["values"]),
        timezone=zone,
        unit=options["unit"],
    )


def _event(pattern: type[Pattern], name: str | None) -> type[Event] | None:
    if name is None:
        return None
    types = pattern.__ensue_pattern__.events
    found = next((one for one in types if name in (one.__name__, declaration(one).name)), None)
    if found is None:
        known = ", ".join(one.__name__ for one in types)
        raise WrongUsage(f"--event {name}: {pattern.__name__} looks at no such event; it looks at: {known}")
    return found


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise WrongUsage(f"{option} {text}: write FIELD={'COLUMN' if option == '--field' else 'TEXT'}")
    return name, value


# ------------------------------------------------------------------------------------------------------------ telling


def match_facts(match: Pattern) -> dict[str, object]:
    """A match for programs. Values of personal fields are not shown."""
    steps = {name: value for name, value in vars(match).items() if name not in ("id", "key", "started", "ended")}
    return {
        "id": match.id,
        "key": match.key,
        "started": match.started,
        "ended": match.ended,
        "steps": {name: _facts(value) for name, value in steps.items()},
    }


def _facts(value: object) -> object:
    if isinstance(value, Event):
        hidden = {one.name for one in personal_fields(type(value))}
        fields = {name: "…" if name in hidden else getattr(value, name) for name in value.__struct_fields__}
        return {"type": declaration(type(value)).name, **msgspec.to_builtins(fields, builtin_types=(datetime,))}
    if isinstance(value, Pattern):
        return match_facts(value)["steps"]
    return [_facts(one) for one in cast("Sequence[object]", value)] if isinstance(value, tuple) else value


def match_text(match: Pattern) -> str:
    """What a match took, for people. Values of personal fields are not shown."""
    steps = {name: value for name, value in vars(match).items() if name not in ("id", "key", "started", "ended")}
    return ", ".join(f"{name}={_text(value)}" for name, value in steps.items() if value not in (None, ()))


def _text(value: object) -> str:
    if isinstance(value, tuple):
        values = cast("tuple[object, ...]", value)
        shown = ", ".join(_text(one) for one in values[:3])
        return f"[{shown}, … {len(values)} in all]" if len(values) > 3 else f"[{shown}]"
    return f"({match_text(value)})" if isinstance(value, Pattern) else repr(value)


def _tell(found: Backtest[Pattern], source: str, as_json: bool) -> None:
    if as_json:
        print_json(_summary(found) | {"matches": [match_facts(one) for one in found.matches]}, pretty=on_terminal())
        return
    if found.matches:
        _table(found.matches)
    say(_head(found))
    _tell_unread(found)


def _summary(found: Backtest[Pattern]) -> dict[str, object]:
    counts = {
        name: getattr(found, name)
        for name in (
            "pattern",
            "found",
            "timed_out",
            "rows",
            "events",
            "late",
            "unread_rows",
            "was_sorted",
            "begins",
            "ends",
        )
    }
    return {**counts, "seconds": round(found.seconds, 3), "unread": found.unread}


def _head(found: Backtest[Pattern]) -> str:
    rate = f", {found.rows / found.seconds:,.0f} a second" if found.seconds else ""
    said = [
        f"{paint(many(found.found, 'match', 'matches'), 'bold')} of {found.pattern} in {many(found.events, 'event')}"
    ]
    if len(found.matches) < found.found:
        said.append(f"{len(found.matches):,} shown")
    if found.timed_out:
        said.append(f"{many(found.timed_out, 'beginning')} timed out")
    if found.late:
        said.append(f"{many(found.late, 'event')} late")
    if found.was_sorted:
        said.append("rows were sorted by time")
    said.append(f"{many(found.rows, 'row')} in {found.seconds:.2f} s{rate}")
    return "; ".join(said)


def _table(matches: Sequence[Pattern]) -> None:
    rows = [(_time(one.ended), one.key, _time(one.started), match_text(one)) for one in matches]
    table(("at", "key", "since", "took"), rows, wide=("took",))


def _time(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}" if on_terminal() else time.isoformat().replace("+00:00", "Z")


def _tell_unread(found: Backtest[Pattern]) -> None:
    shown: list[Unread] = found.unread[:SHOWN_UNREAD]
    for one in shown:
        click.echo(f"line {one.line}: {clean(one.reason)}", err=True)
    if found.unread_rows:
        more = f", {found.unread_rows - len(shown):,} of them not shown" if found.unread_rows > len(shown) else ""
        click.echo(f"{many(found.unread_rows, 'row')} could not be read{more}", err=True)


def _tell_difference(
    new: Backtest[Pattern], old: Backtest[Pattern], difference: Difference, limit: int, as_json: bool
) -> None:
    sides = ((new, difference.only_one), (old, difference.only_other))
    if as_json:
        told = [{**_summary(one), "only": [match_facts(match) for match in only]} for one, only in sides]
        print_json({"both": difference.both, "one": told[0], "other": told[1]}, pretty=on_terminal())
        return
    for one, only in sides:
        say(f"{paint(many(len(only), 'match', 'matches'), 'bold')} only of {one.pattern}")
        if only:
            _table(only[:limit])
    say(f"{many(difference.both, 'match', 'matches')} of both, in {many(new.rows, 'row')}")
    _tell_unread(new)
