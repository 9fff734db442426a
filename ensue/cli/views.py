"""`ensue views`: which versions of each view there are, how far they have come, and rebuild, pause, resume, swap, drop."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import cast

import click
import msgspec

from ensue.cli.beside import database_option, opened_beside
from ensue.cli.consumers import lag_of
from ensue.cli.failures import Negative, WrongUsage
from ensue.cli.output import clean, duration, exact_time, many, on_terminal, print_json, say, table
from ensue.cli.target import OpenLog, Target, log_options
from ensue.domain.views import registry
from ensue.domain.views.parts import forgetting, parts_of, with_progress
from ensue.domain.views.progress import percent, seconds_left, used
from ensue.domain.views.registry import BUILDING, FOLLOWING, Database, Stale, Version
from ensue.domain.views.table import quoted
from ensue.errors import ApplyFailed, Conflict
from ensue.store.base import Consumer, LaneState, Node
from ensue.store.nodes import living

__all__ = ["views"]


class _Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a view, in the shape that `--json` prints.

    `state` is building, following, paused, stopped (no living process builds it), unkept (no living process keeps it) or retired (the
    same, and nothing waits for it). `current` is the one that readers see. `lag_events` is what it has still to do, without what
    waits behind dead letters; when `lag_exact` is false it is the number of positions, an upper bound.
    """

    name: str
    version: int
    state: str
    current: bool
    pinned: bool
    reason: str | None
    table: str
    rows: int | None
    position: int
    head: int
    lag_events: int
    lag_exact: bool
    percent: float
    seconds_left: float | None
    parked: int
    kept: str
    consumer: str | None
    changed_at: str | None


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@database_option
@log_options
@click.pass_context
def views(context: click.Context, as_json: bool) -> None:
    """Show the versions of each view: state, rows, lag, and while one is built how far it is and how long it will take.

    Readers see the current version. A changed view is built beside it, and becomes current when it has caught up.

    \b
    Example:
      $ ensue views
      $ ensue views rebuild orders
      $ ensue views swap orders 3
    """
    if context.invoked_subcommand is None:
        asyncio.run(_list(Target.chosen(), as_json))


async def _list(target: Target, as_json: bool) -> None:
    async with opened_beside(target) as log:
        shown = [await _look(log, version) for version in await _versions(log)]
    if as_json:
        print_json({"views": shown}, pretty=on_terminal())
    elif shown:
        _show(shown)
    else:
        say(f"no view is known to {log.url}; `ensue run module:app` builds those of an application")


async def _versions(log: OpenLog) -> list[Version]:
    if not log.store.capabilities.sql:
        return []
    await log.store.read((), limit=1)
    return await registry.versions(cast(Database, log.store))


async def _look(log: OpenLog, version: Version) -> _Shown:
    name = registry.consumer_name(version.name, version.number)
    consumer = next((one for one in await log.store.consumers() if one.name == name), None)
    nodes = living(await log.store.nodes(), log.world.now())
    if version.state == BUILDING:
        version = await with_progress(cast(Database, log.store), version)
    position, head, parked = version.position, log.store.head(), 0
    lag, exact = max(0, head - position), False
    if consumer is not None and version.state == FOLLOWING:
        standing = await log.store.standing(consumer.id)
        position = min((row.position for row in standing.progress), default=position)
        parked = sum(lane.state == LaneState.PARKED for lane in standing.lanes)
        lag, exact, _ = await lag_of(log, consumer, standing, position)
    building = version.state == BUILDING
    return _Shown(
        name=version.name,
        version=version.number,
        state=_state(version, consumer, nodes, await _owners(log, version)),
        current=version.current,
        pinned=version.pinned,
        reason=version.reason,
        table=registry.table_name(version.name, version.number),
        rows=await _rows(log, version),
        position=position,
        head=head,
        lag_events=lag,
        lag_exact=exact,
        percent=round(percent(version, head), 1) if building else 100.0,
        seconds_left=seconds_left(version, head, log.world.now()) if building else None,
        parked=parked,
        kept=version.kept,
        consumer=name if consumer is not None else None,
        changed_at=exact_time(version.changed_at),
    )


def _state(version: Version, consumer: Consumer | None, nodes: Sequence[Node], owners: Collection[str | None]) -> str:
    if version.paused or (consumer is not None and consumer.status == "paused"):
        return "paused"
    if version.state == BUILDING:
        built = version.kept != "after" or any(node.id.hex() in owners for node in nodes)
        return "building" if built else "stopped"
    if consumer is None:  # it is kept by its position, in the commit itself or by whoever is first
        return "following"
    if consumer.status in ("retired", "tripped"):
        return consumer.status
    return "following" if any(consumer.id in node.can for node in nodes) else "unkept"


async def _rows(log: OpenLog, version: Version) -> int | None:
    """None where its rows are elsewhere, or its table is not made yet."""
    if version.began_at is None:
        return None
    name = registry.table_name(version.name, version.number)
    there = await registry.is_there(cast(Database, log.store), name)
    if not there:
        return None
    found = await cast(Database, log.store).select(f"SELECT count(*) FROM {quoted(name)}")
    return int(found[0][0])


def _show(shown: Sequence[_Shown]) -> None:
    headings = ("view", "version", "state", "readers", "rows", "lag", "built", "left", "dead")
    styles = {"following": "[green]", "building": "[cyan]", "tripped": "[red bold]", "retired": "[dim]"}
    rows = [
        (
            f"[bold]{one.name}",
            str(one.version),
            styles.get(one.state, "[yellow]") + one.state,
            "[green]see it" if one.current else "-",
            _number(one.rows) if one.rows is not None else "-",
            ("" if one.lag_exact else "≤ ") + _number(one.lag_events),
            f"{one.percent:.0f} %",
            duration(one.seconds_left) if one.seconds_left is not None else "-",
            f"[red]{one.parked}" if one.parked else "0",
        )
        for one in shown
    ]
    table(headings, rows, right=("version", "rows", "lag", "built", "left", "dead"), wide=("view",))
    for one in shown:
        if one.reason:
            say(f"{one.name} version {one.version}: {clean(one.reason)}")
        if one.pinned:
            say(f"{one.name} stays at version {one.version} until somebody swaps it to the newest")


def _number(number: int) -> str:
    return f"{number:,}" if on_terminal() else str(number)


# ---------------------------------------------------------------------------------------------------------- changing


async def _of(log: OpenLog, name: str) -> list[Version]:
    """The versions of a view. Errors: `WrongUsage` for a name that no view has."""
    known = await _versions(log)
    found = [one for one in known if one.name == name]
    if not found:
        names = ", ".join(dict.fromkeys(one.name for one in known)) or "none yet"
        raise WrongUsage(f"no view of {log.url} is called {name!r}; there are: {names}")
    return found


def _numbered(found: Sequence[Version], number: int) -> Version:
    version = next((one for one in found if one.number == number), None)
    if version is None:
        there = ", ".join(str(one.number) for one in found)
        raise WrongUsage(f"{found[0].name} has no version {number}; there are: {there}")
    return version


async def _write(log: OpenLog, name: str, *work: registry.Work) -> None:
    """Errors: `Conflict` where somebody else was faster; `Negative` for what the database refuses."""
    try:
        await registry.write(cast(Database, log.store), *work)
    except Stale as error:
        raise Conflict(f"{error}; look again", expected=0, actual=0) from error
    except ApplyFailed as error:
        raise Negative(f"{name} is as it was, the database refused: {error.__cause__}") from error


async def _consumer(log: OpenLog, version: Version) -> Consumer | None:
    name = registry.consumer_name(version.name, version.number)
    return next((one for one in await log.store.consumers() if one.name == name), None)


async def _owners(log: OpenLog, version: Version) -> set[str | None]:
    """The processes that build it, living or not."""
    if version.state != BUILDING:
        return set()
    return {version.owner, *(part.owner for part in await parts_of(cast(Database, log.store), version))}


async def _is_run(log: OpenLog, version: Version) -> bool:
    """Whether a living process builds or keeps it."""
    consumer = await _consumer(log, version)
    nodes = living(await log.store.nodes(), log.world.now())
    runs = consumer is not None and any(consumer.id in node.can for node in nodes)
    owners = await _owners(log, version)
    return runs or any(node.id.hex() in owners for node in nodes)


@views.command()
@click.argument("name")
@database_option
@log_options
def rebuild(name: str) -> None:
    """Build a view from the beginning, beside the version that readers see, which goes on until the new one has caught up.

    \b
    Example:
      $ ensue views rebuild orders
    """
    asyncio.run(_rebuild(Target.chosen(), name))


async def _rebuild(target: Target, name: str) -> None:
    async with opened_beside(target, write=True) as log:
        found = await _of(log, name)
        if found[-1].state == BUILDING:
            raise Negative(f"version {found[-1].number} of {name} is being built already")
        version = next((one for one in found if one.current), found[-1])
        numbers: list[int] = []
        highest, now = used(await log.store.consumers(), name), log.world.now()
        await _write(log, name, lambda sql: numbers.append(registry.rebuild(sql, version, used=highest, now=now)))
    say(f"version {numbers[-1]} of {name} is to be built: a process with its code begins within three seconds")


@views.command()
@click.argument("name")
@click.option("--reason", metavar="TEXT", help="Why; shown by `ensue views`.")
@database_option
@log_options
def pause(name: str, reason: str | None) -> None:
    """Stop building and following a view, in every process, until it is resumed. What is there can be read.

    \b
    Example:
      $ ensue views pause orders --reason "the disk is nearly full"
    """
    asyncio.run(_pause(Target.chosen(), name, True, reason))


@views.command()
@click.argument("name")
@database_option
@log_options
def resume(name: str) -> None:
    """Let a paused view go on where it stopped.

    \b
    Example:
      $ ensue views resume orders
    """
    asyncio.run(_pause(Target.chosen(), name, False, None))


async def _pause(target: Target, name: str, pausing: bool, reason: str | None) -> None:
    async with opened_beside(target, write=True) as log:
        changed = 0
        for version in await _of(log, name):
            consumer = await _consumer(log, version)
            if consumer is not None:
                wanted = "active" if pausing else "paused"
                if consumer.status == wanted:
                    await log.store.set_status(consumer.id, "paused" if pausing else "active", reason)
                    changed += 1
            elif version.paused != pausing:
                await _write(log, name, _changing(version, paused=pausing, reason=reason))
                changed += 1
    word = "paused" if pausing else "active"
    if not changed:
        raise Negative(f"{name} is {word} already, or no process has begun with it")
    say(f"{name} is {word}. Processes that build or follow it are told within three seconds.")


def _changing(version: Version, **changes: object) -> registry.Work:
    return lambda sql: registry.change(sql, version, **changes)


@views.command()
@click.argument("name")
@click.argument("version", type=int)
@database_option
@log_options
def swap(name: str, version: int) -> None:
    """Show readers another version. One that is not the newest stays until somebody swaps to the newest, whatever is built.

    \b
    Example:
      $ ensue views swap orders 3
    """
    asyncio.run(_swap(Target.chosen(), name, version))


async def _swap(target: Target, name: str, number: int) -> None:
    async with opened_beside(target, write=True) as log:
        found = await _of(log, name)
        version = _numbered(found, number)
        if version.state != FOLLOWING:
            raise Negative(f"version {number} of {name} is not built yet; see `ensue views`")
        pinned = any(one.number > number for one in found)
        if version.current and version.pinned == pinned:
            raise Negative(f"readers see version {number} of {name} already")
        database, now = cast(Database, log.store), log.world.now()
        await _write(
            log, name, lambda sql: registry.show(sql, version, dialect=database.dialect, now=now, pinned=pinned)
        )
        seen = await _look(log, version)
    say(
        f"readers see version {number} of {name}"
        + (", and stay there until it is swapped to the newest" if pinned else "")
    )
    if seen.lag_events and seen.state not in ("following", "building"):
        say(f"It is {many(seen.lag_events, 'event')} behind, and no living process keeps it.")


@views.command()
@click.argument("name")
@click.argument("version", type=int, required=False)
@database_option
@log_options
def drop(name: str, version: int | None) -> None:
    """Delete a version and its table; without a number all of a view. Not what readers see while others are left, and nothing that a
    process builds or keeps.

    \b
    Example:
      $ ensue views drop orders 2
    """
    asyncio.run(_drop(Target.chosen(), name, version))


async def _drop(target: Target, name: str, number: int | None) -> None:
    async with opened_beside(target, write=True) as log:
        found = await _of(log, name)
        dropped = found if number is None else [_numbered(found, number)]
        for version in dropped:
            if await _is_run(log, version):
                raise Negative(
                    f"version {version.number} of {name} is run by a living process; take the view out of the code and stop that first"
                )
            if version.current and len(dropped) < len(found):
                raise Negative(f"readers see version {version.number} of {name}; swap to another first")
        for version in dropped:
            consumer = await _consumer(log, version)
            if consumer is not None:
                await log.store.set_status(consumer.id, "retired", "its view was dropped")
        divided = [version for version in dropped if await parts_of(cast(Database, log.store), version)]
        dialect = cast(Database, log.store).dialect
        await _write(log, name, *map(forgetting, divided), *(_dropping(version, dialect) for version in dropped))
    what = "all of it" if number is None else f"version {number}"
    say(f"{name}: {what} is dropped. Code that declares it builds it anew.")


def _dropping(version: Version, dialect: str) -> registry.Work:
    return lambda sql: registry.drop(sql, version, dialect=dialect)
