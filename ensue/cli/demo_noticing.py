"""`ensue demo machine`, `ensue demo loans`, `ensue demo cards`: what patterns notice in real events and in known ones."""

from __future__ import annotations

import asyncio
import csv
import gzip
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import click

from ensue.cli.failures import Negative, WrongUsage
from ensue.cli.output import on_terminal, print_json, say

if TYPE_CHECKING:
    from ensue.examples.noticing.machine import Alarm, Reading, Span

__all__ = ["cards", "loans", "machine"]

_file = click.Path(path_type=Path, exists=True, dir_okay=False)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")


@click.command()
@click.argument("file", type=_file)
@click.option("--labels", type=_file, help="Known failures: a JSON file of spans by name.")
@click.option("--timezone", default="UTC", show_default=True, help="Of the times in the file, where they carry none.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write a picture, PNG or SVG.")
@_as_json
def machine(file: Path, labels: Path | None, timezone: str, plot: Path | None, as_json: bool) -> None:
    """A machine's temperature: alarms for silence, jumps, cold and drift, compared with known failures.

    \b
    Example:
      $ ensue demo machine machine_temperature_system_failure.csv --labels labels.json --plot machine.png

    FILE is CSV with the columns timestamp and value.
    """
    from ensue.examples.noticing.machine import watch

    readings, known = _readings(file, _zone(timezone)), _spans(labels, file.stem, _zone(timezone))
    report, found = watch(readings, known)
    _tell(report, as_json=as_json)
    if plot is not None:
        _plot(plot, readings, found, known)
        if not as_json:
            say(f"The picture is {plot}.")


@click.command()
@click.argument("file", type=_file)
@click.option(
    "--days", default=7.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="How long is too long."
)
@click.option("--limit", default=10, show_default=True, type=click.IntRange(min=0), help="How many waits to list.")
@_as_json
def loans(file: Path, days: float, limit: int, as_json: bool) -> None:
    """Loan applications: work that waits for a person too long, offers sent twice, and where an application is stuck.

    \b
    Example:
      $ ensue demo loans loan-applications.csv.gz --days 5

    FILE is CSV, plain or gzipped, with the columns case_id, activity, lifecycle, timestamp and resource; times carry their zone. All is
    counted a second time by other means.

    Exit codes: 0 both counts say the same; 1 they do not; 2 wrong usage.
    """
    from ensue.examples.noticing.loans import Done, find_all

    rows = [
        Done(
            application=row["case_id"],
            activity=row["activity"],
            lifecycle=row["lifecycle"],
            at=_time(row["timestamp"], None, number, file),
            resource=row["resource"] or None,
        )
        for number, row in _rows(file, ("case_id", "activity", "lifecycle", "timestamp", "resource"))
    ]
    rows.sort(key=lambda row: row.at)
    report, late = find_all(rows, timedelta(days=days))
    _tell(report, as_json=as_json)
    if not as_json:
        for one in late[:limit]:
            until = one.until.astimezone(one.since.tzinfo)
            say(
                f"{one.application}  {one.step}  on the list since {one.since:%Y-%m-%d %H:%M}, nobody by {until:%Y-%m-%d %H:%M %z}"
            )
        if len(late) > limit:
            say(f"… and {len(late) - limit:,} more: --limit {len(late)} lists all")
    if report.problems:
        raise Negative(f"the two counts differ, first: {report.problems[0][:2000]}")


@click.command()
@click.option(
    "--cards", "count", default=2000, show_default=True, type=click.IntRange(min=1), help="How many cards there are."
)
@click.option("--seed", default=1, show_default=True, help="Which are stolen, and when.")
@click.option("--url", help="The log, also of a server. [default: a new file in a temporary folder]")
@_as_json
def cards(count: int, seed: int, url: str | None, as_json: bool) -> None:
    """Payments by card of which some are stolen: what is suspected is compared with what is known.

    \b
    Example:
      $ ensue demo cards --cards 5000

    The application is stopped in the middle and opened again.

    Exit codes: 0 every stolen card was suspected once, and no other; 1 not so; 2 wrong usage; 3 the database cannot be used.
    """
    from ensue.examples.noticing.cards_running import run
    from ensue.world import RealWorld

    folder = Path(tempfile.mkdtemp(prefix="ensue-cards-")) if url is None else None
    where = url or f"sqlite:///{quote(os.fsencode(Path(str(folder)) / 'cards.db'))}"
    report = asyncio.run(run(where, RealWorld(), count=count, seed=seed))
    _tell(report, as_json=as_json)
    if report.missed or report.wrong:
        raise Negative(f"{len(report.missed)} stolen cards were missed, {len(report.wrong)} suspected wrongly")


# ------------------------------------------------------------------------------------------------- reading and telling


def _rows(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        with gzip.open(file, "rt", newline="") if file.suffix == ".gz" else file.open(newline="") as lines:
            reader = csv.DictReader(lines)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise WrongUsage(
                    f"{file} has no column {', '.join(missing)}; its columns are: {', '.join(reader.fieldnames or ())}"
                )
            for row in reader:
                if None in row.values() or None in row:
                    raise WrongUsage(f"{file}, line {reader.line_num}: it has other columns than the header")
                yield reader.line_num, row
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, csv.Error) as error:
        raise WrongUsage(f"{file} cannot be read as CSV: {error}") from None


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise WrongUsage(
            f"--timezone {name!r} is not a time zone; give a name such as UTC or Europe/Amsterdam"
        ) from None


def _time(text: str, zone: tzinfo | None, number: int, file: Path) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise WrongUsage(f"{file}, line {number}: {text!r} is no time; one looks like 2013-12-02 21:15:00") from None
    if at.tzinfo is None:
        if zone is None:
            raise WrongUsage(f"{file}, line {number}: the time {text!r} carries no zone")
        at = at.replace(tzinfo=zone)
    return at


def _readings(file: Path, zone: tzinfo) -> list[Reading]:
    from ensue.examples.noticing.machine import Reading

    found: list[Reading] = []
    for number, row in _rows(file, ("timestamp", "value")):
        try:
            celsius = float(row["value"])
        except ValueError:
            raise WrongUsage(f"{file}, line {number}: {row['value']!r} is no number") from None
        found.append(Reading(machine=file.stem, at=_time(row["timestamp"], zone, number, file), celsius=celsius))
    return found


def _spans(file: Path | None, name: str, zone: tzinfo) -> list[Span]:
    import msgspec

    from ensue.examples.noticing.machine import Span

    if file is None:
        return []
    try:
        known = msgspec.json.decode(file.read_bytes(), type=dict[str, list[tuple[str, str]]])
    except msgspec.MsgspecError as error:
        raise WrongUsage(f"{file} is no list of spans by name: {error}") from None
    key = next((key for key in known if name in key), None)
    if key is None:
        raise WrongUsage(f"{file} knows nothing of {name}; it knows {', '.join(known)}")
    return [Span(_time(begin, zone, 1, file), _time(end, zone, 1, file)) for begin, end in known[key]]


def _tell(report: Any, *, as_json: bool) -> None:
    import msgspec

    facts: dict[str, Any] = msgspec.structs.asdict(report)
    if as_json:
        print_json(facts, pretty=on_terminal())
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            text = ", ".join(f"{key} {count:,}" for key, count in value.items()) or "none"
        elif isinstance(value, list):
            text = ", ".join(map(str, value[:10])) or "none"
        else:
            text = f"{value:,}" if isinstance(value, int | float) else str(value)
        say(f"{name.replace('_', ' '):<24} {text}")


def _plot(file: Path, readings: Sequence[Reading], found: Sequence[Alarm], known: Sequence[Span]) -> None:
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise WrongUsage("--plot draws with matplotlib, which is not installed: pip install 'ensue[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(14, 5), layout="constrained")
    for number, span in enumerate(known):
        axes.axvspan(span.begin, span.end, color="#f4d9a8", label="known failure" if number == 0 else None)  # type: ignore[arg-type]
    ordered = sorted(readings, key=lambda reading: reading.at)
    axes.plot([one.at for one in ordered], [one.celsius for one in ordered], color="#7a8793", linewidth=0.6)  # type: ignore[arg-type]
    colours = {"silence": "#8e44ad", "jump": "#2e86c1", "cold": "#c0392b", "drift": "#1e8449"}
    bottom = min(one.celsius for one in ordered) - 6
    for row, (kind, colour) in enumerate(colours.items()):
        at = [alarm.at for alarm in found if alarm.kind == kind]
        axes.scatter(at, [bottom - 5 * row] * len(at), s=14, color=colour, label=f"{kind} ({len(at)})")  # type: ignore[arg-type]
    axes.set_ylabel("temperature")
    axes.set_title("What was noticed, below; known failures are shaded")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
