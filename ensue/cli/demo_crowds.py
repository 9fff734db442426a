"""`ensue demo bank` and `ensue demo enrolment`: many clients in processes that are killed, and what holds nevertheless."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import click

from ensue.app.urls import shown
from ensue.cli.failures import Negative, WrongUsage
from ensue.cli.output import on_terminal, print_json, say

if TYPE_CHECKING:
    from ensue.examples.crowd import Looking, Settings
    from ensue.world import World

__all__ = ["bank", "enrolment"]

C = TypeVar("C", bound=Callable[..., Any])
Run = Callable[..., Awaitable[Any]]

LINE_SECONDS = 1.0


def _options(command: C) -> C:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end."),
        click.option("--seed", default=1, show_default=True, help="What the clients do."),
        click.option("--kills", default=5, show_default=True, type=click.IntRange(min=0), help="SIGKILLs, by chance."),
        click.option("--processes", default=2, show_default=True, type=click.IntRange(min=1), help="For the clients."),
        click.option("--clients", default=64, show_default=True, type=click.IntRange(min=1), help="At the same time."),
        click.option(
            "--seconds", default=10.0, show_default=True, type=click.FloatRange(min=0.1), help="How long they work."
        ),
        click.option("--url", help="The log, also of a server. [default: a new file in a temporary folder]"),
    ):
        command = option(command)
    return command


@click.command()
@_options
def bank(**options: Any) -> None:
    """A bank: clients move money between fifty accounts, in processes that are killed and started again.

    \b
    Example:
      $ ensue demo bank --seconds 30
      $ ensue demo bank --url postgresql://bank@localhost/bank --processes 4 --kills 20

    While they work and afterwards a second count of the log checks that the sum of all balances never changes, that no account is under
    its limit, that each answer a client heard is what the log says, once, that statements and statements built anew are what was
    counted, and that so are balances as of times.

    Exit codes: 0 all of it holds; 1 something does not; 2 wrong usage; 3 the database cannot be used.
    """

    async def run(settings: Settings, world: World, stop: asyncio.Event, show: Callable[[Looking], None]) -> Any:
        from ensue.examples.bank.running import run

        return await run(settings, world, stop=stop, show=show)

    _demo("bank", run, **options)


@click.command()
@_options
def enrolment(**options: Any) -> None:
    """A school: clients enrol students in courses with few places, in processes that are killed and started again.

    \b
    Example:
      $ ensue demo enrolment --seconds 30
      $ ensue demo enrolment --url postgresql://school@localhost/school --processes 4

    A decision looks at a course and at a student at once. Afterwards no course has more students than places, no student too many
    courses, nobody is enrolled twice, each answer is what the log says, and rows are what was counted.

    Exit codes: 0 all of it holds; 1 something does not; 2 wrong usage; 3 the database cannot be used.
    """

    async def run(settings: Settings, world: World, stop: asyncio.Event, show: Callable[[Looking], None]) -> Any:
        from ensue.examples.enrolment.running import run

        return await run(settings, world, stop=stop, show=show)

    _demo("school", run, **options)


def _demo(
    name: str,
    run: Callable[..., Awaitable[Any]],
    *,
    url: str | None,
    seconds: float,
    clients: int,
    processes: int,
    kills: int,
    seed: int,
    as_json: bool,
) -> None:
    import msgspec

    from ensue.examples.crowd import Settings

    if url is not None and url.partition(":")[0] == "memory":
        raise WrongUsage("--url memory: is of one process, and here are several; leave it out for a file")
    if processes > clients:
        raise WrongUsage(f"--processes {processes} for --clients {clients}: a process has at least one")
    where = url or f"sqlite:///{quote(os.fsencode(Path(tempfile.mkdtemp(prefix=f'ensue-{name}-')) / f'{name}.db'))}"
    logging.getLogger("ensue").addHandler(logging.NullHandler())  # what is killed is told as a number
    settings = Settings(url=where, seconds=seconds, clients=clients, processes=processes, kills=kills, seed=seed)
    report = asyncio.run(_run(run, settings, as_json=as_json))
    facts: dict[str, Any] = msgspec.structs.asdict(report)
    if as_json:
        print_json(facts, pretty=on_terminal())
    else:
        _tell(facts, where)
    if facts["problems"]:
        raise Negative(f"{len(facts['problems'])} things do not hold, the first: {facts['problems'][0]}")


async def _run(run: Run, settings: Settings, *, as_json: bool) -> Any:
    from ensue.app.serving import told_to_stop
    from ensue.world import RealWorld

    line = _Line(silent=as_json)
    with told_to_stop() as stop:
        report = await run(settings, RealWorld(), stop, line.show)
    line.end()
    return report


class _Line:
    """What is seen while they work: one line that is written anew on a terminal, one each second elsewhere."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._next = 0.0

    def show(self, looking: Looking) -> None:
        text = (
            f"{looking.seconds:6.1f} s  {looking.answered:,} answers  {looking.refused:,} refused  {looking.kills} kills  "
            f"{looking.counted}  {looking.problems} problems"
        )
        if self._silent:
            return
        if sys.stdout.isatty():
            click.echo(f"\r\x1b[K{text}", nl=False)
        elif looking.seconds >= self._next:
            self._next = looking.seconds + LINE_SECONDS
            click.echo(text)

    def end(self) -> None:
        if not self._silent and sys.stdout.isatty():
            click.echo("\r\x1b[K", nl=False)


def _tell(facts: dict[str, Any], where: str) -> None:
    for name, value in facts.items():
        if name == "problems":
            text = "none" if not value else "\n".join(value)
        elif isinstance(value, dict):
            text = ", ".join(f"{key} {count:,}" for key, count in value.items()) or "none"
        else:
            text = f"{value:,}" if isinstance(value, int | float) else str(value)
        say(f"{name.replace('_', ' '):<28} {text}")
    say("")
    say(f"The log is at {shown(where)}.")
