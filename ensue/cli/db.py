"""`ensue db`: the tables of a log. They are made and brought up to date when an application opens its log; where its role may not
do that, a person does it here."""

from __future__ import annotations

import asyncio

import click

from ensue.app.urls import bring_up_to_date, shown
from ensue.cli.output import clean, on_terminal, paint, print_json, say
from ensue.cli.target import Target, log_options
from ensue.store.steps import Upgrade
from ensue.world import RealWorld

__all__ = ["db"]


@click.group()
def db() -> None:
    """Bring the tables of a log up to date.

    An application does so by itself when it starts. Do it here before, with a role that may create tables, where the role of the
    application may not.

    \b
    Example:
      $ ensue db upgrade --url postgresql://owner@db.example.com/shop --dry-run
    """


@db.command()
@click.option("--dry-run", is_flag=True, help="Say which steps are missing and their SQL; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@log_options
def upgrade(dry_run: bool, as_json: bool) -> None:
    """Take the steps that are missing, each in a transaction of its own, in order. On an empty PostgreSQL database it makes the
    tables of a log.

    Any number of processes may do so at once, also while an application runs. A step that fails leaves those before it; run it
    again to go on.

    \b
    Example:
      $ ensue db upgrade --url postgresql://owner@db.example.com/shop
    """
    url = Target.chosen().url
    done = asyncio.run(bring_up_to_date(url, RealWorld(), dry_run=dry_run))
    if as_json:
        steps = [{"number": step.number, "title": step.title, "sql": step.sql} for step in done.steps]
        print_json({"url": shown(url), "found": done.found, "dry_run": dry_run, "steps": steps}, pretty=on_terminal())
    else:
        _show(url, done, dry_run)


def _show(url: str, done: Upgrade, dry_run: bool) -> None:
    for step in done.steps:
        say(f"{'would take' if dry_run else paint('took', 'green')} step {step.number}: {step.title}")
        if dry_run:
            say(clean(step.sql.strip(), lines=True))
    if not done.steps:
        say(f"{paint('up to date', 'green')}: {shown(url)} is of schema {done.found}")
