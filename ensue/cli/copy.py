"""`ensue copy`: moves a log to another place, where it goes on as the same log. See `ensue.store.transfer`."""

from __future__ import annotations

import asyncio
import sys

import click

from ensue.app.urls import open_transfer, shown
from ensue.cli.failures import Negative
from ensue.cli.output import Progress, clean, flush, many, on_terminal, paint, print_json, say
from ensue.store.transfer import Copied
from ensue.store.transfer import copy as copy_log
from ensue.world import RealWorld

__all__ = ["copy"]


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def copy(source: str, target: str, as_json: bool) -> None:
    """Move a log: its events, how far everybody has come with them, and the application's own tables beside them, from one
    URL to an empty place at another.

    Stop what runs on it first. The log in FROM is not changed. Whatever stops the command, run it again: it goes on where it
    stopped; until it is done, nothing can run on TO. At the end both sides are compared, row by row. Run again after that, it
    only compares.

    \b
    Example:
      $ ensue copy sqlite:///shop.db postgresql://shop@db.example.com/shop
    """
    world = RealWorld()
    began = world.monotonic()
    told = _Told(quiet=as_json)
    try:
        copied = asyncio.run(copy_log(open_transfer(source), open_transfer(target), world, tell=told))
    except KeyboardInterrupt:
        click.echo("\nstopped before the end: run the same command again, it goes on from here", err=True)
        raise
    finally:
        told.end()
    seconds = world.monotonic() - began
    if as_json:
        print_json(_facts(source, target, copied, seconds), pretty=on_terminal())
    elif copied.difference is None:
        _show(source, target, copied, seconds)
    if copied.difference is not None:
        raise Negative(_differs(target, copied))


class _Told:
    """How far it is: a line that moves on a terminal, a line for each part in a pipe."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet or on_terminal()
        self._work = self._part = ""
        self._progress = Progress("")

    def __call__(self, work: str, part: str, done: int, total: int) -> None:
        if work != self._work:
            self._progress.end()
            self._progress = Progress(work)
        self._progress(done, total)
        if (work, part) != (self._work, self._part) and not self._quiet:
            say(f"{work}\t{part}")
            flush()
        self._work, self._part = work, part

    def end(self) -> None:
        self._progress.end()


def _facts(source: str, target: str, copied: Copied, seconds: float) -> dict[str, object]:
    return {
        "from": shown(source),
        "to": shown(target),
        "log_id": copied.log_id,
        "position": copied.position,
        "rows": copied.rows,
        "unfilled": copied.unfilled,
        "received": copied.received,
        "not_copied": copied.left,
        "was_whole": copied.whole,
        "equal": copied.difference is None,
        "difference": str(copied.difference) if copied.difference is not None else None,
        "seconds": round(seconds, 3),
    }


def _show(source: str, target: str, copied: Copied, seconds: float) -> None:
    counts = ", ".join(_count(label, count) for label, count in copied.rows.items() if count)
    if copied.unfilled:
        counts += f", {many(copied.unfilled, 'position')} without an event"
    did = "copied before" if copied.whole else "copied"
    say(f"{paint('equal', 'green')}: {did}, and both sides compared: {counts or 'an empty log'} ({seconds:.1f} s)")
    say(f"From now on the log is {shown(target)}: start the application with ENSUE_URL set to it.")
    say(f"Start nothing on {shown(source)} any more: what went on there would be another log under the same name.")
    for what in copied.left:
        click.echo(
            f"{paint('not copied', 'red', sys.stderr)}: {clean(what)}; move it yourself before you start", err=True
        )


def _count(label: str, count: int) -> str:
    one = label.replace("rows of", "row of", 1) if label.startswith("rows of") else label[:-1]
    return many(count, one, label)


def _differs(target: str, copied: Copied) -> str:
    if copied.whole:
        return (
            f"the two differ, first at: {copied.difference}. The copy in {shown(target)} was finished before, and one of the two "
            "has changed since, or something was left for you to move. Nothing was written"
        )
    return (
        f"the copy in {shown(target)} is not what the source holds, first at: {copied.difference}. It was not finished, and "
        "nothing can run on it: remove it, and copy again"
    )
