"""`ensue consumers`: how far everybody is, and pause, resume, retire."""

from __future__ import annotations

import asyncio

import click
import msgspec

from ensue.cli.failures import Negative, WrongUsage
from ensue.cli.handled import named, owners
from ensue.cli.output import clean, duration, exact_time, many, on_terminal, print_json, say, table
from ensue.cli.target import OpenLog, Target, log_options, opened
from ensue.consumers.ownership import Ownership, owning
from ensue.consumers.routing import ONE_ORDER, Routing
from ensue.consumers.waiting import Done, handled_numbers
from ensue.events.stored import Row
from ensue.store.base import Consumer, Lane, LaneState, Node, Standing, Term
from ensue.store.nodes import host_name, living

__all__ = ["consumers", "lag_of"]

PAGE = 2000
COUNTED = 20_000
"""Beyond so many events the lag is not counted one by one, but bounded by positions."""
RATE_SECONDS = 0.5
"""Over how long the rate is measured."""
LANES_COUNTED = 100


class _Owned(msgspec.Struct, frozen=True, kw_only=True):
    """What one living process has to do with a consumer. `hands_over` is how many of its segments it is about to give up,
    for those who are below their share."""

    owner: str
    host: str
    segments: list[int]
    hands_over: int


class _Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer, in the shape that `--json` prints.

    `state` is running, paused, tripped, unowned (no living process runs it) or retired. Lag is what it has still to do,
    without what waits behind dead letters; when `lag_exact` is false it is the number of positions, an upper bound.
    """

    name: str
    state: str
    reason: str | None
    position: int
    head: int
    lag_events: int
    lag_exact: bool
    lag_seconds: float
    oldest_undone: int | None
    events_per_second: float
    handled: int
    retrying: int
    parked: int
    dead_letters: int
    owners: list[str]
    """Process ids, with @host for those of other machines."""
    segments: int
    owned: list[_Owned]
    """Those that own some of it, and those that can run it and have none."""
    unowned: list[int]
    """Segments of no living process."""
    unowned_since: str | None
    """Since when the first of them is known to be so; null where nothing is known of it."""
    handles: list[str]
    key: str | None
    started_after: int


@click.group(invoke_without_command=True)
@click.option("--all", "everything", is_flag=True, help="Those that are retired, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
@click.pass_context
def consumers(context: click.Context, everything: bool, as_json: bool) -> None:
    """Show how far everybody is: position, lag, rate, state, owners, retrying keys, dead letters.

    The rate is measured over half a second. Owners are processes; behind each is how many segments of the consumer's keys it
    owns, unless it owns all. Without a running owner nothing moves, and nothing is waited for.

    \b
    Example:
      $ ensue consumers
      $ ensue consumers pause payment.take_payment --reason "the bank is down until noon"
    """
    if context.invoked_subcommand is None:
        asyncio.run(_list(Target.chosen(), everything, as_json))


async def _list(target: Target, everything: bool, as_json: bool) -> None:
    async with opened(target) as log:
        await log.store.read((), limit=1)
        before = {row.id: await log.store.standing(row.id) for row in await log.store.consumers()}
        began = log.world.monotonic()
        running = [node for standing in before.values() for node in await owners(log.store, log.world, standing)]
        if running:
            await log.world.sleep(RATE_SECONDS)
        shown: list[_Shown] = []
        for consumer in await log.store.consumers():
            if everything or consumer.status != "retired":
                standing = await log.store.standing(consumer.id)
                seconds = log.world.monotonic() - began if running else 0.0
                rate = _rate(before.get(consumer.id), standing, seconds)
                shown.append(await _look(log, consumer, standing, rate))
    if as_json:
        print_json({"consumers": shown}, pretty=on_terminal())
    elif shown:
        _show(shown)
    else:
        say(f"no consumer is known to {log.url}; `ensue run module:app` makes an application's handlers known")


def _rate(before: Standing | None, after: Standing, seconds: float) -> float:
    if before is None or seconds == 0:
        return 0.0
    done = sum(row.count for row in after.progress) - sum(row.count for row in before.progress)
    return max(0.0, done / seconds)


async def _look(log: OpenLog, consumer: Consumer, standing: Standing, rate: float) -> _Shown:
    position = min((row.position for row in standing.progress), default=0)
    nodes, now = await log.store.nodes(), log.world.now()
    spread = owning(consumer, standing, living(nodes, now))
    lag, exact, oldest = await lag_of(log, consumer, standing, position)
    states = [lane.state for lane in standing.lanes]
    return _Shown(
        name=consumer.name,
        state=consumer.status if consumer.status != "active" else "running" if spread.owners else "unowned",
        reason=consumer.reason,
        position=position,
        head=log.store.head(),
        lag_events=lag,
        lag_exact=exact,
        lag_seconds=max(0.0, (log.world.now() - oldest[5]) / 1e6) if oldest is not None else 0.0,
        oldest_undone=oldest[0] if oldest is not None else None,
        events_per_second=round(rate, 1),
        handled=sum(row.count for row in standing.progress),
        retrying=states.count(LaneState.RETRY) + states.count(LaneState.LATE),
        parked=states.count(LaneState.PARKED),
        dead_letters=len(await log.store.dead_letters(consumer=consumer.id)),
        owners=[named(owner.node) for owner in spread.owners],
        segments=consumer.segments,
        owned=_owned(spread),
        unowned=list(spread.unowned),
        unowned_since=exact_time(_unowned_since(standing, spread, nodes, now)),
        handles=sorted(consumer.handles),
        key=consumer.key_tag,
        started_after=consumer.start,
    )


def _owned(spread: Ownership) -> list[_Owned]:
    """By owner, those that have nothing yet last."""
    shown: list[_Owned] = []
    for owner in spread.owners:
        count = len(owner.segments)
        above = max(0, count - spread.share) if owner.node in spread.able else count if spread.able else 0
        shown.append(
            _Owned(
                owner=named(owner.node),
                host=host_name(owner.node),
                segments=list(owner.segments),
                hands_over=above,
            )
        )
    having = {owner.node for owner in spread.owners}
    waiting = [
        _Owned(owner=named(node), host=host_name(node), segments=[], hands_over=0)
        for node in spread.able
        if node not in having
    ]
    return shown + waiting


def _unowned_since(standing: Standing, spread: Ownership, nodes: tuple[Node, ...], now: int) -> int | None:
    """When the lease of an owner that died ended. Of a segment that was given up nobody knows."""
    owners = {row.owner for row in standing.progress if row.segment in spread.unowned}
    ends = [node.expires_at for node in nodes if node.id in owners and node.expires_at > 0]
    return min(now, *ends) if ends else None


async def lag_of(log: OpenLog, consumer: Consumer, standing: Standing, mark: int) -> tuple[int, bool, Row | None]:
    """What is still to be done: how many events, whether that is exact, and the oldest of them."""
    numbers = await handled_numbers(log.store, consumer)
    done = Done(consumer, standing, numbers)
    selection = (Term(types=tuple(consumer.handles)),)
    count, looked, reached = 0, 0, mark
    oldest: Row | None = None
    while True:
        page = await log.store.read(selection, after=reached, limit=PAGE)
        for row in page.rows:
            if not done.done(row) and done.lane(row) is None:
                count, oldest = count + 1, oldest or row
        looked, reached = looked + len(page.rows), max(reached, page.reached)
        if reached >= log.store.head():
            break
        if looked >= COUNTED:
            return log.store.head() - mark, False, oldest
    slow = [lane for lane in standing.lanes if lane.state != LaneState.PARKED]
    for lane in slow[:LANES_COUNTED]:
        for row in await _of_lane(log, consumer, lane):
            if not done.done(row):
                count += 1
                oldest = row if oldest is None or row[0] < oldest[0] else oldest
    return count + max(0, len(slow) - LANES_COUNTED), len(slow) <= LANES_COUNTED, oldest


async def _of_lane(log: OpenLog, consumer: Consumer, lane: Lane) -> list[Row]:
    """The events of a key that fell behind, by the log's index."""
    types = tuple(consumer.handles)
    if consumer.key_tag == ONE_ORDER:
        return (await log.store.read((Term(types=types),), after=lane.after, limit=PAGE)).rows
    if lane.key_text.startswith("#"):  # an event that is its own key
        return (await log.store.read((), after=lane.after, before=lane.after + 2, limit=1)).rows
    page = await log.store.read((Term(types=types, tags=(lane.key,)),), after=lane.after, limit=PAGE)
    routing = Routing(consumer.key_tag)
    return [row for row in page.rows if routing.key(row) == lane.key]


def _show(shown: list[_Shown]) -> None:
    headings = ("consumer", "state", "position", "lag", "behind", "rate", "retrying", "dead", "owner")
    styles = {"running": "[green]", "paused": "[yellow]", "tripped": "[red bold]", "unowned": "[yellow]"}
    rows = [
        (
            f"[bold]{one.name}",
            styles.get(one.state, "[dim]") + one.state,
            f"{one.position:,}" if on_terminal() else str(one.position),
            ("" if one.lag_exact else "≤ ") + (f"{one.lag_events:,}" if on_terminal() else str(one.lag_events)),
            duration(one.lag_seconds) if one.oldest_undone is not None else "-",
            f"{one.events_per_second:,.0f}/s" if on_terminal() else f"{one.events_per_second:.1f}",
            f"[yellow]{one.retrying}" if one.retrying else "0",
            f"[red]{one.dead_letters}" if one.dead_letters else "0",
            _owners(one),
        )
        for one in shown
    ]
    table(
        headings,
        rows,
        right=("position", "lag", "behind", "rate", "retrying", "dead letters"),
        wide=("consumer", "owner"),
    )
    for one in shown:
        if one.reason and one.state != "retired":
            say(f"{one.name} is {one.state}: {clean(one.reason)}")
        if one.unowned and one.owners:
            since = f", at least since {one.unowned_since}" if one.unowned_since else ""
            listed = ", ".join(map(str, one.unowned))
            say(f"nobody owns {len(one.unowned)} of {many(one.segments, 'segment')} of {one.name} ({listed}){since}")
    if on_terminal():
        say(f"The log ends at position {shown[0].head:,}.")
    if on_terminal() and any(one.state == "unowned" for one in shown):
        say("No running process owns some of them: start the application with `ensue run module:app`.")


def _owners(one: _Shown) -> str:
    """`4711` owns all of it; `4711 (16, hands over 8) 4712 (0)` are about to share it; `4711 (8) nobody (8)`."""
    if not one.unowned and len(one.owned) == 1:
        return one.owned[0].owner
    parts = [
        f"{owned.owner} ({len(owned.segments)}{f', hands over {owned.hands_over}' if owned.hands_over else ''})"
        for owned in one.owned
    ]
    if one.unowned:
        parts.append(f"nobody ({len(one.unowned)})" if one.owners else "nobody")
    return " ".join(parts)


# ---------------------------------------------------------------------------------------------------- pause, resume


async def _set(target: Target, name: str, status: str, reason: str | None) -> None:
    async with opened(target, write=True) as log:
        known = {row.name: row for row in await log.store.consumers()}
        consumer = known.get(name)
        if consumer is None:
            raise WrongUsage(
                f"no consumer of {log.url} is called {name!r}; there are: {', '.join(known) or 'none yet'}"
            )
        nodes = await owners(log.store, log.world, await log.store.standing(consumer.id))
        if consumer.status == status and status != "paused":
            raise Negative(f"{name} is {status} already")
        if status == "retired" and nodes:
            raise Negative(
                f"{name} is run by the process {named(nodes[0])}; take its handler out of the code and stop that first"
            )
        if consumer.status == "retired":
            raise Negative(f"{name} is retired; an application that declares it again makes it active")
        if consumer.status == "tripped" and nodes:
            raise Negative(
                f"{name} has tripped, and probes by itself until one event succeeds; {consumer.reason or 'see its dead letters'}"
            )
        await log.store.set_status(consumer.id, status, reason)
    if status == "retired":
        say(f"{name} is retired: its progress is kept, it is shown with --all only, and nothing waits for it")
    else:
        within = (
            f" The process {named(nodes[0])} follows within three seconds."
            if nodes
            else " Nobody runs it at the moment."
        )
        say(f"{name} is {status}.{within}")


@consumers.command()
@click.argument("name")
@click.option("--reason", metavar="TEXT", help="Why; shown by `ensue consumers`.")
@log_options
def pause(name: str, reason: str | None) -> None:
    """Stop a consumer, here and in every process, until it is resumed. What it has in work is finished.

    \b
    Example:
      $ ensue consumers pause take_payment --reason "the bank is down until noon"
    """
    asyncio.run(_set(Target.chosen(), name, "paused", reason))


@consumers.command()
@click.argument("name")
@log_options
def resume(name: str) -> None:
    """Let a paused consumer go on where it stopped.

    \b
    Example:
      $ ensue consumers resume take_payment
    """
    asyncio.run(_set(Target.chosen(), name, "active", None))


@consumers.command()
@click.argument("name")
@log_options
def retire(name: str) -> None:
    """Say that a consumer is gone from the code for good. Nothing waits for it any more; its progress is kept.

    \b
    Example:
      $ ensue consumers retire old_report
    """
    asyncio.run(_set(Target.chosen(), name, "retired", None))
