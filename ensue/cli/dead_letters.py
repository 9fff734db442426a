"""`ensue dead-letters`: what was given up, and what becomes of it: again, with another payload, or not at all."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Sequence
from typing import Any

import click
import msgspec

from ensue.cli.facts import EventFacts, EventReader
from ensue.cli.failures import Negative, WrongUsage
from ensue.cli.output import (
    clean,
    columns,
    exact_time,
    fit,
    local_time,
    many,
    on_terminal,
    paint,
    print_json,
    say,
    table,
)
from ensue.cli.target import OpenLog, Target, log_options, opened
from ensue.consumers.operations import parked_lane, release
from ensue.errors import Conflict
from ensue.events.personal import sealed_fields
from ensue.events.recorded import archived_error
from ensue.events.stored import Row
from ensue.store.base import DeadLetter, Lane

__all__ = ["dead_letters"]


class _Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter, in the shape that `--json` prints. `waiting` is how many events of the key wait behind it, at most."""

    id: int
    consumer: str
    position: int
    key: str
    reason: str
    attempts: int
    parked_at: str | None
    resolution: str | None
    note: str | None
    by: str | None
    resolved_at: str | None


class _Whole(_Letter, frozen=True, kw_only=True):
    """One dead letter with all that is known about it."""

    traceback: str
    event: EventFacts | None
    edited: msgspec.Raw | None
    """The payload an operator gave it before, if one did."""


@click.group(invoke_without_command=True)
@click.option("--consumer", metavar="NAME", help="Only those of this consumer.")
@click.option("--all", "everything", is_flag=True, help="Those that are resolved, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
@click.pass_context
def dead_letters(context: click.Context, consumer: str | None, everything: bool, as_json: bool) -> None:
    """Show what was given up. Each parks its key for its consumer; later events of the key wait behind it.

    \b
    Example:
      $ ensue dead-letters
      $ ensue dead-letters show 1
      $ ensue dead-letters edit 1 --set card=4111-1111
      $ ensue dead-letters retry --all --consumer payment.take_payment
      $ ensue dead-letters discard 1 --note "test order"
    """
    if context.invoked_subcommand is None:
        asyncio.run(_list(Target.chosen(), consumer, everything, as_json))


# ---------------------------------------------------------------------------------------------------------- looking


async def _letters(log: OpenLog, consumer: str | None = None, *, open_only: bool = True) -> list[DeadLetter]:
    numbers = {row.name: row.id for row in await log.store.consumers()}
    if consumer is not None and consumer not in numbers:
        raise WrongUsage(
            f"no consumer of {log.url} is called {consumer!r}; there are: {', '.join(numbers) or 'none yet'}"
        )
    number = numbers[consumer] if consumer is not None else None
    return list(await log.store.dead_letters(consumer=number, open_only=open_only))


async def _names(log: OpenLog) -> dict[int, str]:
    return {row.id: row.name for row in await log.store.consumers()}


def _facts(letter: DeadLetter, consumer: str) -> dict[str, Any]:
    return {
        "id": letter.id,
        "consumer": consumer,
        "position": letter.position,
        "key": letter.key_text,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "parked_at": exact_time(letter.parked_at),
        "resolution": letter.resolution,
        "note": letter.note,
        "by": letter.by,
        "resolved_at": exact_time(letter.resolved_at),
    }


async def _list(target: Target, consumer: str | None, everything: bool, as_json: bool) -> None:
    async with opened(target) as log:
        letters = await _letters(log, consumer, open_only=not everything)
        names = await _names(log)
    if as_json:
        shown = [_Letter(**_facts(letter, names.get(letter.consumer, ""))) for letter in letters]
        print_json({"dead_letters": shown}, pretty=on_terminal())
        return
    if not letters:
        if on_terminal():
            say("no dead letters")
        return
    headings = ("id", "consumer", "position", "key", "attempts", "parked at", "reason")
    rows = [
        (
            f"[bold]{letter.id}",
            names.get(letter.consumer, ""),
            str(letter.position),
            f"[cyan]{letter.key_text}",
            str(letter.attempts),
            local_time(letter.parked_at)[5:19] if on_terminal() else str(exact_time(letter.parked_at)),
            f"[red]{_reason(letter)}" if letter.resolution is None else f"[dim]{letter.resolution}: {_reason(letter)}",
        )
        for letter in letters
    ]
    table(headings, rows, right=("id", "position", "attempts"), wide=("consumer", "key", "reason"))


def _reason(letter: DeadLetter) -> str:
    return fit(letter.reason, max(60, 2 * columns())) if on_terminal() else letter.reason


@dead_letters.command()
@click.argument("id", type=int)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
def show(id: int, as_json: bool) -> None:
    """Show one with its payload, reason, traceback and attempts.

    \b
    Example:
      $ ensue dead-letters show 1
    """
    asyncio.run(_show(Target.chosen(), id, as_json))


async def _show(target: Target, id: int, as_json: bool) -> None:
    async with opened(target) as log:
        letter = await _letter(log, id)
        consumer = (await _names(log)).get(letter.consumer, "")
        reader = EventReader(log)
        await reader.refresh()
        row = await _row(log, letter.position)
        event = reader.facts(row) if row is not None else None
        lane = await _lane(log, letter)
        waiting = await _waiting(log, letter) if lane is not None else 0
        edited = None
        if lane is not None and lane.edit is not None and row is not None:
            edited = msgspec.Raw(reader.edited(row, lane.edit))
    if as_json:
        whole = _Whole(**_facts(letter, consumer), traceback=letter.traceback, event=event, edited=edited)
        print_json(whole, pretty=on_terminal())
        return
    _say_letter(letter, consumer, event, edited, waiting)


def _say_letter(
    letter: DeadLetter, consumer: str, event: EventFacts | None, edited: msgspec.Raw | None, waiting: int
) -> None:
    said = f"{letter.resolution or 'open since'} {local_time(letter.resolved_at or letter.parked_at)}"
    lines = [
        ("dead letter", f"{letter.id}, {said}"),
        ("consumer", consumer),
        ("event", f"{letter.position} {event.type} {event.id}" if event is not None else str(letter.position)),
        ("key", letter.key_text),
        ("attempts", str(letter.attempts)),
        ("reason", letter.reason),
    ]
    if letter.resolution is not None:
        lines.append((letter.resolution, f"by {letter.by}" + (f": {letter.note}" if letter.note else "")))
    elif waiting:
        lines.append(("waiting", f"{many(waiting, 'event')} of this key behind it"))
    for name, value in lines:
        say(f"{paint(f'{name:<12}', 'dim')} {clean(value)}")
    if event is not None:
        say(paint("payload", "dim"))
        say(clean(_pretty(bytes(event.event)) if event.event is not None else event.payload, lines=True))
    if edited is not None:
        say(paint("edited payload, tried last", "dim"))
        say(clean(_pretty(bytes(edited)), lines=True))
    if letter.traceback:
        say(paint("traceback", "dim"))
        say(clean(letter.traceback.rstrip(), lines=True))
    if letter.resolution is None and on_terminal():
        say(f"Next: `ensue dead-letters retry {letter.id}`, edit {letter.id}, or discard {letter.id} --note WHY.")


async def _letter(log: OpenLog, id: int) -> DeadLetter:
    letters = await _letters(log, open_only=False)
    found = next((letter for letter in letters if letter.id == id), None)
    if found is None:
        raise Negative(f"{log.url} has no dead letter {id}; `ensue dead-letters --all` lists those it has")
    return found


async def _open_letter(log: OpenLog, id: int) -> DeadLetter:
    letter = await _letter(log, id)
    if letter.resolution is not None:
        raise Negative(f"dead letter {id} was {letter.resolution} already, by {letter.by}")
    return letter


async def _row(log: OpenLog, position: int) -> Row | None:
    page = await log.store.read((), after=position - 1, before=position + 1, limit=1)
    return page.rows[0] if page.rows else None


async def _lane(log: OpenLog, letter: DeadLetter) -> Lane | None:
    try:
        return await parked_lane(log.store, letter) if letter.resolution is None else None
    except Conflict:
        return None


async def _waiting(log: OpenLog, letter: DeadLetter) -> int:
    """How many events of the key wait behind it, as far as one page tells."""
    from ensue.consumers.routing import ONE_ORDER, Routing
    from ensue.consumers.waiting import handled_numbers
    from ensue.store.base import Term

    consumer = next(row for row in await log.store.consumers() if row.id == letter.consumer)
    if letter.key_text.startswith("#"):
        return 0
    numbers = await handled_numbers(log.store, consumer)
    term = Term(types=tuple(consumer.handles), tags=(letter.key,))
    page = await log.store.read((term,), after=letter.position, limit=1000)
    routing = Routing(consumer.key_tag)
    own = [row for row in page.rows if consumer.key_tag == ONE_ORDER or routing.key(row) == letter.key]
    return sum(row[0] > numbers.get(row[2], row[0]) for row in own)


def _pretty(data: bytes) -> str:
    """Indented, if it is JSON."""
    try:
        return msgspec.json.format(data, indent=2).decode(errors="replace")
    except msgspec.MsgspecError:
        return data.decode(errors="replace")


# ----------------------------------------------------------------------------------------------------------- acting


@dead_letters.command()
@click.argument("id", type=int, required=False)
@click.option("--all", "everything", is_flag=True, help="All that are open.")
@click.option("--consumer", metavar="NAME", help="With --all: only those of this consumer.")
@click.option("--note", metavar="TEXT", help="Why; kept with it.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@log_options
def retry(id: int | None, everything: bool, consumer: str | None, note: str | None, dry_run: bool) -> None:
    """Handle one again, or all of them.

    Each gets all its attempts anew. When it succeeds, its key goes on.

    \b
    Example:
      $ ensue dead-letters retry 1
      $ ensue dead-letters retry --all --consumer take_payment --dry-run
    """
    if (id is None) != everything:
        raise WrongUsage("say which: `ensue dead-letters retry ID`, or `--all`")
    if consumer is not None and not everything:
        raise WrongUsage("--consumer goes with --all; an ID is of one consumer already")
    asyncio.run(_retry(Target.chosen(), id, consumer, note, dry_run))


async def _retry(target: Target, id: int | None, consumer: str | None, note: str | None, dry_run: bool) -> None:
    async with opened(target, write=not dry_run) as log:
        names = await _names(log)
        letters = await _letters(log, consumer) if id is None else [await _open_letter(log, id)]
        passed = 0
        for letter in letters:
            if not dry_run:
                try:
                    await release(log.store, log.world, letter, note=note)
                except Conflict as faster:
                    if id is not None:
                        raise
                    passed += 1
                    click.echo(f"ensue: dead letter {letter.id} passed over: {faster}", err=True)
                    continue
            say(_did("is retried", letter, names, dry_run))
        if not letters:
            say("no dead letters")
        elif not dry_run and letters[passed:]:
            await _say_owner(log, letters)


def _did(what: str, letter: DeadLetter, names: dict[int, str], dry_run: bool) -> str:
    would = "would be " + what.removeprefix("is ") if dry_run else what
    about = f"position {letter.position}, {letter.key_text}, {names.get(letter.consumer, '')}"
    return clean(f"dead letter {letter.id} {would} ({about})")


async def _say_owner(log: OpenLog, letters: Sequence[DeadLetter]) -> None:
    """Nothing happens by itself when no process runs the consumer."""
    from ensue.cli.handled import owners

    for number in {letter.consumer for letter in letters}:
        if not await owners(log.store, log.world, await log.store.standing(number)):
            click.echo("No process runs this consumer now; it goes on when the application does.", err=True)
            return


@dead_letters.command()
@click.argument("id", type=int)
@click.option("--note", required=True, metavar="TEXT", help="Why; it stays.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@log_options
def discard(id: int, note: str, dry_run: bool) -> None:
    """Pass over one for good; then its key goes on behind it.

    \b
    Example:
      $ ensue dead-letters discard 1 --note "a test order"
    """
    if not note.strip():
        raise WrongUsage("a discarded event needs a --note that says why")
    asyncio.run(_discard(Target.chosen(), id, note, dry_run))


async def _discard(target: Target, id: int, note: str, dry_run: bool) -> None:
    async with opened(target, write=not dry_run) as log:
        letter = await _open_letter(log, id)
        if not dry_run:
            await release(log.store, log.world, letter, discard=True, note=note)
        say(_did("is discarded", letter, await _names(log), dry_run))
        if not dry_run:
            await _say_owner(log, [letter])


@dead_letters.command()
@click.argument("id", type=int)
@click.option(
    "--set", "changes", multiple=True, metavar="FIELD=VALUE", help="Another value for a field; again for more."
)
@click.option("--note", metavar="TEXT", help="Why; kept with it.")
@click.option("--dry-run", is_flag=True, help="Show the difference, and do nothing.")
@log_options
def edit(id: int, changes: tuple[str, ...], note: str | None, dry_run: bool) -> None:
    """Give one another payload and handle it again. The log keeps the event as it was; only this consumer sees the edit.

    Without --set the payload is opened in $EDITOR. A value is read as JSON where the field is not a text now, and
    `a.b=1` changes a field inside a field. With --app the result is checked against the event type.

    Of a message that a channel brought and nobody could read, `text` is the body, and `headers.ce-type` a header.

    \b
    Example:
      $ ensue dead-letters edit 1 --set quantity=3 --dry-run
      $ EDITOR=nano ensue dead-letters edit 1
    """
    target = Target.chosen()
    stored, checked = asyncio.run(_stored(target, id))
    edited = _set(stored, changes) if changes else _by_hand(stored)
    if edited is None or _pretty(edited) == _pretty(stored):
        raise Negative(
            f"nothing was changed, so dead letter {id} stays as it is; `retry {id}` tries it again as it was"
        )
    checked(edited)
    _say_difference(stored, edited)
    asyncio.run(_edit(target, id, edited, note, dry_run))


async def _stored(target: Target, id: int) -> tuple[bytes, Callable[[bytes], None]]:
    """The payload as it is tried now, and what checks another one."""
    async with opened(target) as log:
        letter = await _open_letter(log, id)
        row, lane = await _row(log, letter.position), await _lane(log, letter)
        if row is None or lane is None:
            raise Negative(f"dead letter {id} is not parked any more; `ensue dead-letters` lists those that are")
        name, version = (await log.store.types()).get(row[2], ("", 0))
        registry = log.registry
        sealing = registry if registry is not None and registry.seals(name, version) else None
        stored = lane.edit if lane.edit is not None else row[11]
        gone = archived_error(row, name) if lane.edit is None else None
        if gone is not None:
            raise Negative(f"dead letter {id} cannot be edited: {gone}")
        shown = sealing.unsealed(name, stored) if sealing is not None else stored

    def checked(edited: bytes) -> None:
        if registry is None or not registry.knows(name):
            click.echo(_unchecked(name, with_types=registry is not None), err=True)
            return
        try:
            registry.decoder(name, version, plain=sealing is not None)(edited)
        except Exception as error:  # an upcaster is the user's code
            raise WrongUsage(f"this is no {name} version {version}: {error}; nothing was changed") from None

    return shown, checked


async def _sealed(log: OpenLog, letter: DeadLetter, edited: bytes) -> bytes:
    """What was edited, as the log is to hold it. Errors: `WrongUsage` where something personal would be in it in plain."""
    row = await _row(log, letter.position)
    assert row is not None, "it was shown to be edited"
    name, version = (await log.store.types()).get(row[2], ("", 0))
    if log.registry is not None and log.registry.seals(name, version):
        return log.registry.sealed(name, version, edited)
    before, after = sealed_fields(row[11]), sealed_fields(edited)
    if before - after:
        raise WrongUsage(
            f"{', '.join(sorted(before - after))} of {name} version {version} is personal, and would be stored in plain: say "
            "--app module:app, and edit events of the version that its code writes; nothing was changed"
        )
    return edited


def _unchecked(name: str, *, with_types: bool) -> str:
    """Why what was edited is not checked."""
    from ensue.consumers.wire import stored_type

    if name.startswith(stored_type("")):
        return "Not checked: a message is read when it is handled. If it still cannot be read, it is parked again."
    if with_types:
        return f"Not checked: the application has no event type {name}."
    return f"Not checked against {name}: say --app module:app for that."


async def _edit(target: Target, id: int, edited: bytes, note: str | None, dry_run: bool) -> None:
    async with opened(target, write=not dry_run) as log:
        letter = await _open_letter(log, id)
        if not dry_run:
            await release(log.store, log.world, letter, edit=await _sealed(log, letter, edited), note=note)
        say(_did("is retried with this payload", letter, await _names(log), dry_run))
        if not dry_run:
            await _say_owner(log, [letter])


def _fields(data: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WrongUsage(f"the payload is not a JSON object: {error}; nothing was changed") from None


def _set(stored: bytes, changes: Sequence[str]) -> bytes:
    fields = _fields(stored)
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals or not path:
            raise WrongUsage(f"--set {change!r} is not of the form field=value")
        *outer, last = path.split(".")
        inner: Any = fields
        for name in outer:
            inner = inner.get(name) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or last not in inner:
            known = ", ".join(inner) if isinstance(inner, dict) else ", ".join(fields)
            raise WrongUsage(f"the payload has no field {path!r}; it has: {known}")
        inner[last] = _value(text, inner[last])
    return msgspec.json.encode(fields)


def _value(text: str, now: object) -> object:
    """The text itself where a text stands now; else as JSON, if it is."""
    if isinstance(now, str):
        return text
    try:
        return msgspec.json.decode(text.encode())
    except msgspec.MsgspecError:
        return text


def _by_hand(stored: bytes) -> bytes | None:
    text = click.edit(_pretty(stored), extension=".json")
    if text is None:
        return None
    return msgspec.json.encode(_fields(text.encode()))


def _say_difference(stored: bytes, edited: bytes) -> None:
    lines = difflib.unified_diff(_pretty(stored).splitlines(), _pretty(edited).splitlines(), lineterm="", n=1)
    for line in list(lines)[3:]:
        style = {"-": "red", "+": "green"}.get(line[:1], "dim")
        say(paint(clean(line), style))
