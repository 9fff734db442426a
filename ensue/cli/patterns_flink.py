"""`ensue patterns flink`: a pattern as Flink SQL, printed, or submitted to a cluster. See `ensue.patterns.flink`."""

from __future__ import annotations

import asyncio

import click

from ensue.channels.urls import place
from ensue.cli.failures import WrongUsage
from ensue.cli.loading import load_pattern
from ensue.cli.output import say
from ensue.patterns.flink import Topic, script, submit, to_flink
from ensue.world import RealWorld

__all__ = ["flink"]


@click.command()
@click.argument("pattern", metavar="MODULE:PATTERN")
@click.option("--source", metavar="URL", help="The topic with the events: kafka://host:9092/topic.")
@click.option("--target", metavar="URL", help="The topic for the matches.")
@click.option("--name", metavar="TYPE", help="The event type that matches become; the pattern's name by default.")
@click.option("--submit", "gateway", metavar="URL", help="Start it as a job, by this SQL gateway.")
def flink(pattern: str, source: str | None, target: str | None, name: str | None, gateway: str | None) -> None:
    """Print a pattern as Flink SQL: a query over a table of events, or with --source and --target the whole job between two topics of
    Kafka. With --submit start that job on a cluster, and print its id.

    What Flink SQL has no form for that provably finds the same is refused, with the reason and what could be written instead.

    \b
    Example:
      $ ensue patterns flink shop:Unpaid
      $ ensue patterns flink shop:Unpaid --source kafka://kafka:9092/orders --target kafka://kafka:9092/unpaid --submit http://flink:8083
    """
    found = load_pattern(pattern)
    if (source is None) != (target is None):
        raise WrongUsage("--source and --target are the two ends of one job: give both, or none for the query alone")
    if source is None or target is None:
        if gateway is not None or name is not None:
            raise WrongUsage("--submit and --name are of a job: give --source and --target as well")
        query = to_flink(found)
        _comments(query.assumptions)
        say(f"{query.select('events')};")
        return
    ends = _topic(source), _topic(target)
    if gateway is not None:
        job = submit(found, gateway=gateway, source=ends[0], target=ends[1], world=RealWorld(), name=name)
        say(asyncio.run(job))
        return
    query = to_flink(found)
    _comments(query.assumptions)
    for statement in script(query, *ends, name=name):
        say(f"{statement};")


def _comments(assumptions: tuple[str, ...]) -> None:
    say("-- Finds what the pattern finds, if:")
    for assumption in assumptions:
        say(f"-- - {assumption}")


def _topic(url: str) -> Topic:
    where = place(url)
    if where.scheme != "kafka" or not where.path.strip("/") or where.user is not None or where.parameters:
        raise WrongUsage(
            f"{where.shown} is no topic; write kafka://host:9092/topic. For a cluster with users or TLS print the statements without "
            "--submit, and add the properties of Kafka's Java clients"
        )
    servers = ",".join(f"{host}:{port or 9092}" for host, port in where.hosts)
    return Topic(servers=servers, name=where.path.strip("/"))
