"""`ensue patterns`: how far the patterns and windows of a log are, what they mean and wait for, and why something matched or did not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from ensue.app import App
from ensue.cli.backtest import match_facts, match_text
from ensue.cli.consumers import lag_of
from ensue.cli.facts import positions_with_id
from ensue.cli.failures import Negative, WrongUsage
from ensue.cli.loading import declared_app, load_app, load_pattern
from ensue.cli.output import duration, exact_time, local_time, on_terminal, print_json, say, table
from ensue.cli.patterns_flink import flink
from ensue.cli.target import OpenLog, Target, log_options, opened
from ensue.consumers.node import PATTERNS
from ensue.consumers.ownership import owning
from ensue.errors import EnsueError
from ensue.events.message import declaration
from ensue.events.recorded import microseconds
from ensue.events.registry import Registry
from ensue.events.stored import Row
from ensue.patterns import Pattern
from ensue.patterns.definition import Definition
from ensue.patterns.detection.sought import Sought
from ensue.patterns.explained.explaining import explain
from ensue.patterns.explained.inspecting import GoingOn, facts_of, going_on, keys_of
from ensue.patterns.explained.reasons import Reason, Why, WhyNot, nearest_miss
from ensue.patterns.explained.reasons import why as why_of
from ensue.patterns.explained.streams import stream_of
from ensue.patterns.keys import key_reader
from ensue.patterns.operator import Taken
from ensue.store.base import Consumer
from ensue.store.nodes import living

__all__ = ["patterns"]

KEYS_SHOWN = 20


class _Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One pattern or window, in the shape that `--json` prints.

    `state` is running, paused, tripped, unowned (no living process runs it) or retired. `lag_events` as of `ensue consumers`. What the
    detector keeps is null before it kept anything: `watermark`, how far time has come; `keys`, for how many something waits, and how
    many `bytes` that is; `events` it has looked at, `findings` it has given, and the microseconds of work an event costs.
    """

    name: str
    state: str
    reason: str | None
    position: int
    head: int
    lag_events: int
    lag_exact: bool
    dead_letters: int
    watermark: str | None
    keys: int | None
    bytes: int | None
    events: int | None
    findings: int | None
    micros_per_event: float | None
    handles: list[str]


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
@click.pass_context
def patterns(context: click.Context, as_json: bool) -> None:
    """Show the patterns and windows of a log: state, lag, how far time has come, what waits, what was found, what an event costs.

    \b
    Examples:
      $ ensue patterns
      $ ensue patterns show Unpaid
      $ ensue patterns partials Unpaid --key o1
      $ ensue patterns why-not Unpaid --key o1
    """
    if context.invoked_subcommand is None:
        asyncio.run(_list(Target.chosen(), as_json))


patterns.add_command(flink)


async def _list(target: Target, as_json: bool) -> None:
    async with opened(target) as log:
        await log.store.read((), limit=1)
        consumers = [one for one in await log.store.consumers() if one.name.startswith(PATTERNS)]
        shown = [await _look(log, one) for one in consumers if one.status != "retired"]
    if as_json:
        print_json({"patterns": shown}, pretty=on_terminal())
    elif shown:
        _show(shown)
    else:
        say(
            f"no pattern is known to {log.url}; `ensue run module:app` makes those known that an application's handlers name"
        )


async def _look(log: OpenLog, consumer: Consumer) -> _Shown:
    standing = await log.store.standing(consumer.id)
    facts = await facts_of(log.store, consumer)
    spread = owning(consumer, standing, living(await log.store.nodes(), log.world.now()))
    lag, exact, _ = await lag_of(log, consumer, standing, facts.position)
    return _Shown(
        name=facts.name,
        state=consumer.status if consumer.status != "active" else "running" if spread.owners else "unowned",
        reason=consumer.reason,
        position=facts.position,
        head=log.store.head(),
        lag_events=lag,
        lag_exact=exact,
        dead_letters=len(await log.store.dead_letters(consumer=consumer.id)),
        watermark=None if facts.watermark is None else exact_time(microseconds(facts.watermark)),
        keys=facts.keys,
        bytes=facts.bytes,
        events=facts.events,
        findings=facts.findings,
        micros_per_event=round(facts.seconds * 1e6 / facts.events, 2) if facts.seconds and facts.events else None,
        handles=sorted(consumer.handles),
    )


def _show(shown: Sequence[_Shown]) -> None:
    headings = ("pattern", "state", "lag", "time", "waiting keys", "bytes", "events", "found", "an event", "dead")
    styles = {"running": "[green]", "tripped": "[red bold]"}
    rows = [
        (
            f"[bold]{one.name}",
            styles.get(one.state, "[yellow]") + one.state,
            ("" if one.lag_exact else "≤ ") + _number(one.lag_events),
            one.watermark or "-",
            *map(_number, (one.keys, one.bytes, one.events, one.findings)),
            "-" if one.micros_per_event is None else duration(one.micros_per_event / 1e6),
            f"[red]{one.dead_letters}" if one.dead_letters else "0",
        )
        for one in shown
    ]
    table(headings, rows, right=headings[2:3] + headings[4:], wide=("pattern",))


def _number(number: int | None) -> str:
    return "-" if number is None else f"{number:,}" if on_terminal() else str(number)


# ------------------------------------------------------------------------------------------------ which pattern is meant


def _application() -> App:
    named = Target.named_app() or declared_app(Path.cwd())
    if named is None:
        raise WrongUsage(
            "say which application has the pattern: --app module:app, or app under [tool.ensue] in pyproject.toml"
        )
    return load_app(named)


def _sought(app: App) -> dict[str, Sought]:
    """What an application's handlers name: patterns, windows and joins."""
    found: list[Any] = [handler.sought for handler in app.handlers if handler.sought is not None]
    return {one.definition.name: one for one in found}


def _patterns(app: App) -> dict[str, Sought]:
    return {name: one for name, one in _sought(app).items() if isinstance(one.definition, Definition)}


def _meant(name: str) -> Sought:
    app = _application()
    known = _patterns(app)
    if name not in known and name in _sought(app):
        raise WrongUsage(
            f"{name} is a window or join of {app.name}, and this is for patterns alone; see `ensue patterns`"
        )
    if name not in known:
        raise WrongUsage(f"{app.name} has no pattern {name!r}; it has: {', '.join(known) or 'none'}")
    return known[name]


def _registry(log: OpenLog, definition: Definition) -> Registry:
    registry = log.registry or Registry()
    registry.covering(definition.events)
    return registry


async def _consumer(log: OpenLog, sought: Sought) -> Consumer:
    await log.store.read((), limit=1)
    name = f"{PATTERNS}{sought.definition.name}"
    found = next((one for one in await log.store.consumers() if one.name == name and one.status != "retired"), None)
    if found is None:
        raise Negative(f"{log.url} does not know the pattern {sought.definition.name} yet; `ensue run` makes it known")
    return found


# ------------------------------------------------------------------------------------------------------------ asking


@patterns.command()
@click.argument("name")
@click.option("--source", is_flag=True, help="With the source that it was compiled to.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
def show(name: str, source: bool, as_json: bool) -> None:
    """Say in words what a pattern means, what bounds it and how it runs. NAME is one of the application, or module:Pattern.

    \b
    Example:
      $ ensue patterns show Unpaid
    """
    found: Any = load_pattern(name) if ":" in name else _meant(name).source
    told = explain(found)
    if as_json:
        print_json(told, pretty=on_terminal())
        return
    say(str(told))
    if source:
        say()
        say(told.source or "it is not compiled")


@patterns.command("partials")
@click.argument("name")
@click.option("--key", metavar="KEY", help="Of this key alone.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=KEYS_SHOWN, help=f"Of so many keys; {KEYS_SHOWN} by default."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
def show_partials(name: str, key: str | None, limit: int, as_json: bool) -> None:
    """Show what waits: beginnings that are not over, what they have taken and for what and how long they wait.

    \b
    Example:
      $ ensue patterns partials Unpaid --key o1
    """
    asyncio.run(_partials(Target.chosen(), _meant(name), key, limit, as_json))


async def _partials(target: Target, sought: Sought, key: str | None, limit: int, as_json: bool) -> None:
    found: list[GoingOn] = []
    async with opened(target) as log:
        consumer = await _consumer(log, sought)
        for one in [key] if key is not None else await keys_of(log.store, consumer, limit=limit):
            found += await going_on(log.store, _registry(log, sought.definition), sought, consumer, one)
    if as_json:
        print_json({"partials": [_partial_facts(one) for one in found]}, pretty=on_terminal())
    elif found:
        rows = [
            (one.key, _time(one.started), match_text(one.match), one.waiting_for or "the end", _time(one.deadline))
            for one in found
        ]
        table(("key", "since", "took", "waits for", "until"), rows, wide=("took",))
    else:
        say(f"nothing waits{'' if key is None else f' for {key}'}")


@patterns.command()
@click.argument("match", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
def why(match: str, as_json: bool) -> None:
    """Say why a match is one: what each step took, which conditions held and what they read. ID is the match's, or its position in the log.

    \b
    Example:
      $ ensue patterns why 944f2b32
    """
    asyncio.run(_why(Target.chosen(), _application(), match, as_json))


async def _why(target: Target, app: App, text: str, as_json: bool) -> None:
    async with opened(target) as log:
        row = await _row(log, text)
        name, version = (await log.store.types())[row[2]]
        stored = [(noticed, one) for one in _patterns(app).values() for noticed in one.noticed]
        noticed = next((one for one, _ in stored if declaration(one.event).name == name), None)
        if noticed is None or noticed.kind not in ("match", "withdrawn"):
            raise Negative(f"the event at position {row[0]} is a {name}, which is no match of a pattern of {app.name}")
        definition: Definition = getattr(noticed.source, "__ensue_pattern__")  # noqa: B009
        registry = _registry(log, definition)
        registry.covering((noticed.event,))
        event: Any = registry.reader(name, version)(row[11])
        found: Any = noticed.read(event, registry)
        instance: Pattern = found if isinstance(found, Pattern) else found.match
    told = _with_positions(why_of(instance), [one.position for one in event.taken])
    if as_json:
        print_json(_why_facts(told, instance), pretty=on_terminal())
    else:
        say(str(told))


def _with_positions(told: Why, positions: Sequence[int]) -> Why:
    """Both are in the order of the steps."""
    if len(told.took) != len(positions):
        return told
    took = tuple(
        msgspec.structs.replace(one, position=position) for one, position in zip(told.took, positions, strict=True)
    )
    return msgspec.structs.replace(told, took=took)


async def _row(log: OpenLog, text: str) -> Row:
    positions = [int(text)] if text.isdecimal() and len(text) < 19 else await positions_with_id(log, text)
    if not positions:
        raise Negative(f"there is no event with the id {text!r} in {log.url}; a match's id is that of its event")
    page = await log.store.read((), after=positions[0] - 1, before=positions[0] + 1, limit=1)
    if not page.rows:
        raise Negative(f"there is no event at position {positions[0]} of {log.url}")
    return page.rows[0]


@patterns.command("why-not")
@click.argument("name")
@click.option("--key", metavar="KEY", help="Of which key.")
@click.option("--event", type=int, metavar="POSITION", help="What became of this event; its key need not be said.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
def why_not(name: str, key: str | None, event: int | None, as_json: bool) -> None:
    """Say why there is no match: of a key the beginning that came farthest and what was in its way, or what became of one event.

    \b
    Example:
      $ ensue patterns why-not Unpaid --key o1
    """
    if key is None and event is None:
        raise WrongUsage("say of which key, --key KEY, or of which event, --event POSITION")
    asyncio.run(_why_not(Target.chosen(), _meant(name), key, event, as_json))


async def _why_not(target: Target, sought: Sought, key: str | None, event: int | None, as_json: bool) -> None:
    definition: Definition = sought.definition
    async with opened(target) as log:
        consumer = await _consumer(log, sought)
        if key is None:
            key = await _key_of(log, definition, event or 0)
        facts, until = await facts_of(log.store, consumer), log.world.now()
        if definition.time == "event" and facts.watermark is not None:
            until = microseconds(facts.watermark)
        stream = await stream_of(log.store, _registry(log, definition), sought, key, until=until)
        taken = next((one for one in stream.events if one.position == event), None)
        if event is not None and taken is None:
            raise Negative(f"the event at position {event} is none of the key {key!r} that {definition.name} looks at")
        told = nearest_miss(definition, stream, taken)
    if as_json:
        print_json(_why_not_facts(told), pretty=on_terminal())
    else:
        say(str(told))


async def _key_of(log: OpenLog, definition: Definition, position: int) -> str:
    row = await _row(log, str(position))
    types = await log.store.types()
    registry = _registry(log, definition)
    try:
        event: Any = registry.reader(*types[row[2]])(row[11])
        return key_reader(definition.key_tag)(event)
    except EnsueError as error:
        raise Negative(f"the event at position {position} has no key for {definition.name}: {error}") from None


# ------------------------------------------------------------------------------------------------------------- telling


def _time(time: datetime) -> str:
    return local_time(microseconds(time)) if on_terminal() else exact_time(microseconds(time)) or "-"


def _taken_facts(step: str, taken: Taken) -> dict[str, object]:
    return {
        "step": step,
        "position": taken.position,
        "type": type(taken.event).__name__,
        "time": exact_time(taken.time),
    }


def _partial_facts(one: GoingOn) -> dict[str, object]:
    steps = match_facts(one.match)["steps"]
    return {
        "key": one.key,
        "started": one.started,
        "steps": steps,
        "waiting_for": one.waiting_for,
        "deadline": one.deadline,
    }


def _why_facts(told: Why, match: Pattern) -> dict[str, object]:
    took = [{"step": one.step, "position": one.position, "checks": one.checks} for one in told.took]
    return {**match_facts(match), "took": took, "absent": told.absent, "whole": told.whole}


def _why_not_facts(told: WhyNot) -> dict[str, object]:
    return {
        "pattern": told.pattern,
        "key": told.key,
        "done": told.done,
        "steps": told.steps,
        "took": [_taken_facts(step, taken) for step, taken in told.took],
        "waiting_for": told.waiting_for,
        "reasons": [_reason_facts(one) for one in told.reasons],
        "said": told.said(),
    }


def _reason_facts(reason: Reason) -> dict[str, object]:
    event = None if reason.event is None else _taken_facts(reason.step, reason.event)
    return {"cause": reason.cause, "step": reason.step, "event": event, "by_micros": reason.by, "checks": reason.checks}
