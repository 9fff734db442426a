"""`ensue verify`: every promise that can be recomputed from what is stored, recomputed. See `ensue.consumers.verify`."""

from __future__ import annotations

import asyncio

import click
import msgspec

from ensue.cli.failures import NEGATIVE
from ensue.cli.output import Progress, clean, many, on_terminal, paint, print_json, say
from ensue.cli.target import Target, log_options, opened
from ensue.consumers.verify import FINDINGS_OF_A_CHECK, Finding, Verification
from ensue.consumers.verify import verify as verify_log

__all__ = ["verify"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
@click.pass_context
def verify(context: click.Context, as_json: bool) -> None:
    """Prove that a log is whole: positions, ids, streams, times, causes, checkpoints, accounts, lanes, dead letters.

    It reads in pages and may run while the application does. Each finding names its position; with any, the exit code is 1.

    \b
    Example:
      $ ensue verify --url sqlite:///shop.db
    """
    target = Target.chosen()
    found = asyncio.run(_verify(target))
    if as_json:
        print_json({**msgspec.structs.asdict(found), "whole": found.whole}, pretty=on_terminal())
    else:
        _show(found)
    if not found.whole:
        context.exit(NEGATIVE)


async def _verify(target: Target) -> Verification:
    progress = Progress("verifying")
    async with opened(target) as log:
        try:
            return await verify_log(log.store, log.world, progress=progress)
        finally:
            progress.end()


def _show(found: Verification) -> None:
    for finding in found.findings:
        say(_line(finding))
    checked = f"{many(found.events, 'event')}, {many(found.consumers, 'consumer')}, {many(found.dead_letters, 'open dead letter')}"
    if found.unfilled:
        checked = f"{checked}, {many(found.unfilled, 'position')} without an event"
    if found.whole:
        say(f"{paint('whole', 'green')}: {checked} checked, nothing found")
        return
    more = f" and {found.omitted:,} more, beyond {FINDINGS_OF_A_CHECK} of one check" if found.omitted else ""
    say(f"{paint('not whole', 'red bold')}: {many(len(found.findings), 'finding')}{more} in {checked}")


def _line(finding: Finding) -> str:
    where = f"position {finding.position}" if finding.position is not None else "log"
    who = f"{finding.consumer}: " if finding.consumer else ""
    if not on_terminal():
        return f"{finding.check}\t{where}\t{clean(who + finding.message)}"
    return f"{paint(f'{finding.check:<12}', 'red')}  {paint(f'{where:<16}', 'cyan')}  {clean(who + finding.message)}"
