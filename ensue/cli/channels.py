"""`ensue channels`: where an application's channels are, who uses them for what, and what their brokers can do."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from ensue.cli.failures import Negative, WrongUsage
from ensue.cli.output import clean, print_json, say, table

if TYPE_CHECKING:
    from ensue.app import App
    from ensue.channels import Channel
    from ensue.channels.base import Capabilities
    from ensue.consumers.handler import HandlerDefinition

__all__ = ["channels"]


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a channel as one consumer uses it. `capabilities` is None where the broker cannot be asked; `problem` says why."""

    channel: str
    consumer: str
    use: str
    carries: tuple[str, ...]
    url: str
    address: str
    group: str | None
    capabilities: Capabilities | None
    problem: str | None


@click.command()
@click.argument("application", metavar="[MODULE:APP]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def channels(application: str | None, as_json: bool) -> None:
    """Show an application's channels: where each is, what it is used for, and what the broker there can do.

    It connects to every broker, and receives nothing. Without MODULE:APP it is `app` under [tool.ensue] in pyproject.toml.

    \b
    Example:
      $ export ENSUE_CHANNELS=nats://127.0.0.1
      $ ensue channels app:app

    Exit codes: 0 all of them can be reached; 1 one cannot; 2 wrong usage.
    """
    from ensue.cli.loading import declared_app, load_app

    named = application or declared_app(Path.cwd())
    if named is None:
        raise WrongUsage('say which application: `ensue channels module:app`, or app = "module:app" under [tool.ensue]')
    app = load_app(named)
    found = asyncio.run(_ask(app))
    if as_json:
        for one in found:
            print_json(one)
    elif not found:
        say(f"{named} uses no channels: App(inbox=[…]), App(outbox=[…]) or @on(source=…)")
    else:
        table(
            ("channel", "use", "consumer", "where", "address", "the broker"),
            [(one.channel, one.use, one.consumer, clean(one.url), clean(one.address), _said(one)) for one in found],
            wide=("consumer", "where", "address", "the broker"),
        )
    if any(one.problem for one in found):
        raise Negative(f"{sum(one.problem is not None for one in found)} of {len(found)} cannot be used, see above")


async def _ask(app: App) -> list[_Found]:
    from ensue.app.brokers import open_broker, place_of
    from ensue.errors import EnsueError
    from ensue.world import RealWorld

    world = RealWorld()

    async def one(handler: HandlerDefinition, channel: Channel) -> _Found:
        capabilities, problem, url, address, group = None, None, "", "", None
        try:
            place = place_of(channel, os.environ)
            url, address = place.shown, place.address(channel.name)
            named = app.name if handler.role.value == "inbox" else f"{app.name}.{handler.name}"
            group = None if handler.role.value == "outbox" else place.group(named)
            broker = open_broker(place)
            try:
                await broker.open(world)
                capabilities = broker.capabilities
            finally:
                await broker.close()
        except EnsueError as error:
            problem = str(error)
        return _Found(
            channel=channel.name,
            consumer=handler.name,
            use=handler.role.value,
            carries=tuple(message.__name__ for message in channel.carries),
            url=url,
            address=address,
            group=group,
            capabilities=capabilities,
            problem=problem,
        )

    # At the same time: each may take as long as an attempt to connect.
    using = [(handler, handler.channel) for handler in app.handlers if handler.channel is not None]
    return await asyncio.gather(*(one(handler, channel) for handler, channel in using))


def _said(one: _Found) -> str:
    if one.capabilities is None:
        return clean(one.problem or "")
    able = one.capabilities
    words = [
        "durable" if able.durable else "not durable",
        "replays" if able.replay else "keeps nothing for new groups",
        "assigns partitions" if able.assigns else "one receiver at a time",
    ]
    return ", ".join(words)
