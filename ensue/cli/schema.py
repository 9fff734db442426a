"""`ensue schema`: whether the code can read what was recorded, and samples of what was."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from ensue.app.event_types import registry_of, types_of
from ensue.cli.failures import NEGATIVE, WrongUsage
from ensue.cli.loading import declared_app, load_app
from ensue.cli.output import Progress, clean, many, on_terminal, paint, print_json, say
from ensue.cli.target import Target, opened
from ensue.events.message import Event
from ensue.events.registry import Registry
from ensue.events.samples import Samples, recorded_again
from ensue.events.schema import Finding, Schema, TypeSchema, chain_findings, check_row, describe, merged
from ensue.events.schema import check as check_schema
from ensue.events.stored import Row, tombstone_of
from ensue.events.upcasting import splits
from ensue.store.base import Store, Term

__all__ = ["schema"]

T = TypeVar("T")

SAMPLED = 100
"""So many of the newest events of each recorded version are tried, and as many of the oldest."""
PAGE = 1000


@click.group()
def schema() -> None:
    """Compare an application's event types with what is recorded: is there anything that this code could not read back?

    MODULE:APP is the application; without it the one that pyproject.toml names.

    \b
    Example:
      $ ensue schema write shop:app events.json       # commit it
      $ ensue schema check shop:app --against events.json
      $ ensue schema check shop:app --log sqlite:///shop.db
    """


class _Loaded:
    """The event types of the application that is named."""

    def __init__(self, named: str | None) -> None:
        text = named or declared_app(Path.cwd())
        if text is None:
            raise WrongUsage("say which application: MODULE:APP, or `app` under [tool.ensue] in pyproject.toml")
        app = load_app(text)
        self.registry: Registry = registry_of(app)
        self.keys: str | None = app.settings.keys
        self.events: list[type[Event]] = types_of(app, self.registry, module=text.partition(":")[0])


@schema.command()
@click.argument("app", metavar="[MODULE:APP]", required=False)
@click.option("--log", "log", metavar="URL", help="Check against the events in this log.")
@click.option(
    "--against", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Check against a schema file."
)
@click.option(
    "--all", "all_events", is_flag=True, help="With --log: try every event, not the oldest and newest of each version."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def check(
    context: click.Context, app: str | None, log: str | None, against: Path | None, all_events: bool, as_json: bool
) -> None:
    """Refuse what could not be read back: exit code 1, with type, field, reason and what to do.

    Backward and over the whole history: each version that was ever recorded, under each name, must lead to a type of today and stay
    in its stream. A log's own events are read as well. Nothing is written.

    \b
    Example:
      $ ensue schema check shop:app --against events.json --log sqlite:///shop.db
    """
    if log is None and against is None:
        raise WrongUsage("say what to check against: --log URL, --against FILE, or both")
    if all_events and log is None:
        raise WrongUsage("--all is about the events of a log: say which with --log URL")
    loaded = _Loaded(app)
    findings: list[Finding] = []
    versions = tried = 0
    if against is not None:
        recorded = _read(against, Schema, "schema")
        versions = len(recorded.types)
        findings += check_schema(loaded.registry, loaded.events, recorded)
    if log is not None:
        of_log, in_log, tried = asyncio.run(_check_log(loaded, log, all_events=all_events))
        findings += of_log
        versions = max(versions, in_log)
    if as_json:
        facts = {"readable": not findings, "versions": versions, "events": tried, "findings": findings}
        print_json(msgspec.to_builtins(facts), pretty=on_terminal())
    else:
        _show(findings, versions, tried)
    if findings:
        context.exit(NEGATIVE)


def _show(findings: Sequence[Finding], versions: int, tried: int) -> None:
    for one in findings:
        where = f"{one.type} version {one.version}" + (f", {one.field}" if one.field else "")
        place = f" at position {one.position}" if one.position is not None else ""
        say(clean(f"{paint(where, 'red')}{place}: {one.reason}. To do: {one.do}") if not on_terminal()
            else f"{paint(where, 'red')}{place}: {clean(one.reason)}\n    {paint('to do:', 'dim')} {clean(one.do)}")  # fmt: skip
    checked = many(versions, "recorded version") + (f" and {many(tried, 'event')}" if tried else "")
    if findings:
        say(f"{paint('not readable', 'red bold')}: {many(len(findings), 'finding')} in {checked}")
    else:
        say(f"{paint('readable', 'green')}: {checked} checked, nothing found")


async def _check_log(loaded: _Loaded, url: str, *, all_events: bool) -> tuple[list[Finding], int, int]:
    """Findings, how many recorded versions, how many events were tried."""
    target = Target(url, loaded.registry, os.environ.get("ENSUE_KEYS") or loaded.keys)
    async with opened(target) as log:
        store = log.store
        types = {number: pair for number, pair in (await store.types()).items() if not pair[0].startswith("ensue.")}
        findings = [one for pair in types.values() for one in _of_version(loaded, *pair)]
        broken = {(one.type, one.version) for one in findings}
        numbers = {number: pair for number, pair in types.items() if pair not in broken}
        found, tried = await _try_events(loaded.registry, store, numbers, all_events=all_events)
        return findings + found, len(types), tried


def _of_version(loaded: _Loaded, name: str, version: int) -> list[Finding]:
    event = loaded.registry.event(name)
    if event is None and name not in dict(splits()):
        return check_schema(loaded.registry, loaded.events, _only(name, version))
    return list(chain_findings(name, version, event))


def _only(name: str, version: int) -> Schema:
    return Schema(types=(TypeSchema(name=name, version=version, fields={}),))


async def _try_events(
    registry: Registry, store: Store, numbers: dict[int, tuple[str, int]], *, all_events: bool
) -> tuple[list[Finding], int]:
    """One finding for each version: the first of its events that is not read, or not in its place; and how many were tried."""
    findings: dict[int, Finding] = {}
    tried: set[int] = set()
    count = after = 0
    newest = await store.read(limit=1, backwards=True)
    head = newest.rows[0][0] if newest.rows else 0
    progress = Progress("reading events")
    try:
        if all_events:
            while after < head:
                page = await store.read(after=after, before=head + 1, limit=PAGE)
                count += _try(registry, page.rows, numbers, findings)
                after = page.reached
                progress(after, head)
            return list(findings.values()), count
        names = sorted({name for name, _ in numbers.values()})
        for done, name in enumerate(names):
            for rows in (await _oldest(store, name, head), await _newest(store, name)):
                count += _try(registry, [row for row in rows if row[0] not in tried], numbers, findings)
                tried.update(row[0] for row in rows)
            progress(done + 1, len(names))
    finally:
        progress.end()
    return list(findings.values()), count


async def _oldest(store: Store, name: str, head: int) -> list[Row]:
    found: list[Row] = []
    after = 0
    while len(found) < SAMPLED and after < head:
        page = await store.read((Term(types=(name,)),), after=after, limit=SAMPLED - len(found))
        found += page.rows
        after = page.reached
    return found


async def _newest(store: Store, name: str) -> list[Row]:
    found: list[Row] = []
    before: int | None = None
    while len(found) < SAMPLED and before != 0:
        limit = SAMPLED - len(found)
        page = await store.read((Term(types=(name,)),), before=before, limit=limit, backwards=True)
        found += page.rows
        before = page.reached
    return found


def _try(
    registry: Registry, rows: Sequence[Row], numbers: dict[int, tuple[str, int]], findings: dict[int, Finding]
) -> int:
    tried = 0
    for row in rows:
        number = row[2]
        if number not in numbers or number in findings or tombstone_of(row[11]) is not None:
            continue
        tried += 1
        finding = check_row(registry, row, *numbers[number])
        if finding is not None:
            findings[number] = finding
    return tried


# ------------------------------------------------------------------------------------------------------ writing files


@schema.command()
@click.argument("app", metavar="MODULE:APP")
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
def write(app: str, file: Path) -> None:
    """Write what the application's event types are now into a schema file, beside every version that is in it already.

    Do it with each release, and commit the file. Nothing is written while something in the file could not be read back; a version
    that was never stored anywhere is taken out of it by hand.

    \b
    Example:
      $ ensue schema write shop:app events.json
    """
    loaded = _Loaded(app)
    present = describe(loaded.events)
    recorded = _read(file, Schema, "schema") if file.exists() else Schema(types=())
    findings = check_schema(loaded.registry, loaded.events, recorded)
    if findings:
        _show(findings, len(recorded.types), 0)
        raise click.exceptions.Exit(NEGATIVE)
    whole = merged(recorded, present)
    file.write_bytes(_pretty(whole))
    say(f"{paint('wrote', 'green')} {file}: {many(len(whole.types), 'version')} of {many(_kinds(whole), 'type')}")


def _kinds(whole: Schema) -> int:
    return len({one.name for one in whole.types})


@schema.command()
@click.argument("app", metavar="[MODULE:APP]", required=False)
@click.option(
    "--write", "target", metavar="FILE|DIR", required=True, type=click.Path(path_type=Path), help="Where they are kept."
)
def samples(app: str | None, target: Path) -> None:
    """Record a sample of each version of each event type, and what it is read as now. Samples of former versions stay.

    A test then holds the code to them: `ensue.testing.check_samples(app, FILE)`. In a folder each sample is a file of its own. Where
    no sample can be made of a type, one is written by hand: its type, version and payload.

    \b
    Example:
      $ ensue schema samples shop:app --write tests/samples.json
    """
    loaded = _Loaded(app)
    folder = target.is_dir() or (not target.exists() and not target.suffix)
    files = sorted(target.glob("*.json")) if target.is_dir() else [target] if target.exists() else []
    known = [sample for file in files for sample in _read(file, Samples, "samples").samples]
    again = recorded_again(loaded.registry, loaded.events, Samples(tuple(known)))
    if folder:
        target.mkdir(parents=True, exist_ok=True)
        for one in again.samples:
            (target / f"{one.type}.v{one.version}.json").write_bytes(_pretty(Samples((one,))))
    else:
        target.write_bytes(_pretty(again))
    new = len(again.samples) - len(known)
    say(f"{paint('wrote', 'green')} {target}: {many(len(again.samples), 'sample')}, {new} of them new")


def _pretty(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2) + b"\n"


def _read(file: Path, kind: type[T], word: str) -> T:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        raise WrongUsage(
            f"there is no file {file}; `ensue schema {word.removesuffix('schema') or 'write'}` makes one"
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise WrongUsage(f"{file} is no file of {word} that can be read: {error}") from None
