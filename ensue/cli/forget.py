"""`ensue forget`: a subject, for ever."""

from __future__ import annotations

import asyncio

import click

from ensue.app.forgetting import forget_subject, lost_subjects
from ensue.cli.failures import Negative, WrongUsage
from ensue.cli.output import Progress, clean, say
from ensue.cli.target import OpenLog, Target, log_options, opened
from ensue.events.message import tag_of
from ensue.store.keys import KeyRing

__all__ = ["forget"]


@click.command()
@click.argument("subject", required=False, metavar="SUBJECT")
@click.option("--yes", is_flag=True, help="Do not ask: it cannot be taken back.")
@click.option(
    "--lost", is_flag=True, help="In place of SUBJECT: all whose keys are lost; nothing else can be done for them."
)
@log_options
def forget(subject: str | None, yes: bool, lost: bool) -> None:
    """Destroy the key of a subject's personal data, and tell the log. For ever.

    The personal fields of all events about it are shown as forgotten from now on, in this log and in every copy of it. Handlers
    of SubjectForgotten, views and running processes drop what they hold. Nothing personal is stored about it any more.

    \b
    Example:
      $ ensue forget customer_id=c1
    """
    if (subject is None) != lost:
        raise WrongUsage("say whom: `ensue forget customer_id=c1`")
    name, equals, value = (subject or "").partition("=")
    if not lost and not (equals and name.isidentifier() and value):
        raise WrongUsage(f"{subject!r} is no subject; it is the name of a tag and its value, such as customer_id=c1")
    target = Target.chosen()
    if not yes:
        whom = "all subjects whose keys are lost" if lost else tag_of(name, value)
        click.confirm(f"Forget {whom}, for ever?", abort=True, err=True)
    asyncio.run(_forget_lost(target) if lost else _forget(target, tag_of(name, value)))


async def _forget(target: Target, subject: str) -> None:
    async with opened(target, write=True) as log:
        destroyed, written = await forget_subject(log.store, _keys(log), log.world, subject)
        if not destroyed and written.first > written.last:
            raise Negative(f"nothing personal was ever stored about {subject} in {log.url}; nothing was done")
        if destroyed:
            say(clean(f"forgot {subject}: its key is destroyed (position {written.first})"))
        else:
            say(clean(f"{subject} was forgotten before (position {written.first})"))


async def _forget_lost(target: Target) -> None:
    async with opened(target, write=True) as log:
        keys, progress = _keys(log), Progress("searching")
        try:
            lost = await lost_subjects(log.store, keys, lambda position: progress(position, log.store.head()))
        finally:
            progress.end()
        keys.destroy(lost)
        for subject in lost:
            await forget_subject(log.store, keys, log.world, subject)
        say(f"forgot {len(lost)} subject{'' if len(lost) == 1 else 's'} whose keys are lost")


def _keys(log: OpenLog) -> KeyRing:
    assert log.keys is not None
    return log.keys
