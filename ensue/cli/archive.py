"""`ensue archive`: payloads that nobody needs at hand go into a file, or, where their type says so, away."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import click
import msgspec

from ensue.app.event_types import registry_of, types_of
from ensue.cli.failures import WrongUsage
from ensue.cli.loading import declared_app, load_app
from ensue.cli.output import Progress, clean, many, on_terminal, paint, print_json, say
from ensue.cli.target import Target, log_options, opened
from ensue.consumers.archiving import Archived, Dropped, archive_closed, drop_old
from ensue.events.message import Event, declaration
from ensue.events.recorded import microseconds
from ensue.events.stored import tag_hash

__all__ = ["archive"]


@click.group()
def archive() -> None:
    """Move payloads of closed streams into files, or drop those that nobody wants any more. The log keeps a tombstone of each event.

    Which event closes a stream, and for how long payloads are wanted, say the event types of the application: closes=True,
    retention=days(30). An application is given its archives with App(archives=[…]).

    \b
    Example:
      $ ensue archive write accounts-2024.parquet --app bank:app --before 2025-01-01
      $ ensue archive drop --app bank:app
    """


@archive.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--before", metavar="DATE", help="Only streams that were closed before it: 2025-01-01, in UTC, or with a time."
)
@click.option(
    "--key", "only", multiple=True, metavar="NAME=VALUE", help="Only the stream of this key; again for several."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
def write(file: Path, before: str | None, only: tuple[str, ...], as_json: bool) -> None:
    """Move the payloads of closed streams into FILE: Parquet if it ends in .parquet, else JSON lines in gzip.

    Nothing is taken from the log before the file is on disk and was compared with it. Whatever stops the command, run it again with
    the same FILE: it goes on. The application may run meanwhile; streams of which a consumer has yet to handle an event are left.

    \b
    Example:
      $ ensue archive write accounts-2024.jsonl.gz --app bank:app --before 2025-01-01
    """
    limit = _date(before) if before is not None else None
    wrong = next((key for key in only if "=" not in key), None)
    if wrong is not None:
        raise WrongUsage(f"--key {wrong} is no key; write NAME=VALUE, such as account_id=a1")
    target, types = Target.chosen(), _types()
    closing = [declaration(event).name for event in types if declaration(event).closes]
    told = _Told(quiet=as_json)

    async def work() -> Archived:
        async with opened(target, write=True) as log:
            return await archive_closed(
                log.store,
                log.world,
                file,
                closing=closing,
                before=limit,
                keys=[tag_hash(key) for key in only],
                tell=told,
            )

    try:
        done = asyncio.run(work())
    finally:
        told.end()
    if as_json:
        print_json(msgspec.to_builtins(done), pretty=on_terminal())
        return
    if done.resumed:
        say(
            f"{paint('whole', 'green')}: {clean(done.file)} was there, and all its {many(done.events, 'event')} are tombstones now"
        )
    elif done.events:
        moved = f"{many(done.events, 'payload')} of {many(done.streams, 'closed stream')}"
        say(f"{paint('archived', 'green')}: {moved} in {clean(done.file)}")
    else:
        say("nothing to archive: no stream is closed whose payloads are in the log")
    if done.waiting:
        say(
            f"{many(done.waiting, 'closed stream')} left: a consumer has yet to handle events there (`ensue consumers`)"
        )


@archive.command()
@click.option("--type", "names", multiple=True, metavar="NAME", help="Only events of this type; again for several.")
@click.option("--yes", "sure", is_flag=True, help="Do it. Without it nothing is changed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
def drop(names: tuple[str, ...], sure: bool, as_json: bool) -> None:
    """Say which payloads are older than their type's retention, and with --yes drop them for good: no archive has them.

    Only types that say for how long they are wanted. What a consumer has yet to handle stays.

    \b
    Example:
      $ ensue archive drop --app meter:app --yes
    """
    target, types = Target.chosen(), _types()
    ages = {
        declaration(event).name: retention // timedelta(microseconds=1)
        for event in types
        if (retention := declaration(event).retention) is not None
    }
    unknown = sorted(set(names) - set(ages))
    if unknown:
        known = f"those that do: {', '.join(sorted(ages))}" if ages else "no type of the application does"
        raise WrongUsage(f"{unknown[0]} does not say for how long it is wanted (retention=days(30)); {known}")
    if not ages:
        raise WrongUsage(
            "no event type of the application says for how long it is wanted: class …(Event, retention=days(30))"
        )
    told = _Told(quiet=as_json)

    async def work() -> list[Dropped]:
        async with opened(target, write=sure) as log:
            chosen = {name: age for name, age in ages.items() if not names or name in names}
            return await drop_old(log.store, log.world, chosen, dry_run=not sure, tell=told)

    try:
        found = asyncio.run(work())
    finally:
        told.end()
    if as_json:
        print_json({"dropped": sure, "types": msgspec.to_builtins(found)}, pretty=on_terminal())
        return
    for one in found:
        word = paint("dropped", "green") if sure else "would drop"
        left = f"; {many(one.waiting, 'event')} left that a consumer has yet to handle" if one.waiting else ""
        say(f"{word} {many(one.events, 'payload')} of {one.type} from before {one.before}{left}")
    if not sure and any(one.events for one in found):
        say("nothing was changed; say --yes to drop them for good")


def _types() -> list[type[Event]]:
    """The event types of the application, which say what may be archived or dropped."""
    named = Target.named_app() or declared_app(Path.cwd())
    if named is None:
        raise WrongUsage(
            "say which application: --app MODULE:APP; its event types say what closes a stream, and what is kept for how long"
        )
    app = load_app(named)
    return types_of(app, registry_of(app), module=named.partition(":")[0])


def _date(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise WrongUsage(f"--before {text} is no date; write 2025-01-01, or 2025-01-01T12:00+01:00") from None
    return microseconds(found if found.tzinfo is not None else datetime.fromisoformat(f"{found.isoformat()}+00:00"))


class _Told:
    """How far it is."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._work = ""
        self._progress: Progress | None = None

    def __call__(self, work: str, done: int, total: int) -> None:
        if self._quiet:
            return
        if work != self._work or self._progress is None:
            self.end()
            self._work, self._progress = work, Progress(work)
        self._progress(done, total)

    def end(self) -> None:
        if self._progress is not None:
            self._progress.end()
