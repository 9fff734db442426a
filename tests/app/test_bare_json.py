"""Messages of programs that know nothing of CloudEvents: read and stored once, and written so that they can read them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ensue import App, Channel
from ensue.channels.base import Message
from ensue.errors import WiringError
from tests.app.channels import Placed, broker_at, channel, drained, until


def declared(parameters: str) -> Channel:
    found = channel(Placed)
    return Channel(found.name, Placed, url=f"{found.url}?{parameters}")


@pytest.mark.parametrize(
    ("parameters", "stored"),
    [("type=Placed", 3), ("type=Placed&id=field:order", 2), ("type=Placed&id=header:message-id", 1)],
)
def test_bare_json_is_stored_once_for_each_id_that_it_has(parameters: str, stored: int, tmp_path: Path) -> None:
    """Two messages of one order, and one of another; all with one id in a header. A place in memory lasts as long as it."""
    orders = declared(parameters)
    app = App("reader", url=f"sqlite:///{tmp_path}/reader.db", inbox=[orders])
    headers = {"message-id": "m-1", "tenant": "blue"}

    async def story() -> None:
        async with broker_at(orders) as broker:
            bodies = (b'{"order": "o1"}', b'{"order": "o1"}', b'{"order": "o2"}')
            await broker.publish(orders.name, [Message(body=body, headers=headers) for body in bodies])
            last = Message(body=b'{"order": "last"}', headers={"message-id": "m-2"})
            await broker.publish(orders.name, [last])
            async with app:
                await until(lambda: app.open_store().head() > stored)
        async with app.connected():
            found = [recorded async for recorded in app.log.read(Placed)]
        assert len(found) == stored + 1
        assert found[0].meta.headers == headers

    asyncio.run(story())


def test_what_is_written_as_bare_json_is_the_payload_and_comes_in_once(tmp_path: Path) -> None:
    orders = declared("format=json&type=Placed")
    writer = App("writer", url=f"sqlite:///{tmp_path}/writer.db", outbox=[orders])
    reader = App("reader", url=f"sqlite:///{tmp_path}/reader.db", inbox=[orders])

    async def story() -> None:
        async with writer, reader:
            await writer.publish(Placed(order="o1", number=7))
            await until(lambda: reader.open_store().head() == 1)
        (message,) = await drained(orders, "somebody else", 1)
        assert message.body == b'{"order":"o1","number":7}'
        async with broker_at(orders) as broker, reader:
            again = Message(body=message.body, headers=message.headers)
            await broker.publish(orders.name, [again, Message(body=b'{"order":"last"}', headers={})])
            await until(lambda: reader.open_store().head() == 2)

    asyncio.run(story())


def test_an_id_that_is_declared_in_no_way_we_know_is_refused_at_start(tmp_path: Path) -> None:
    app = App("reader", url=f"sqlite:///{tmp_path}/reader.db", inbox=[declared("type=Placed&id=order")])

    async def story() -> None:
        with pytest.raises(WiringError, match="id='order'; it is header:NAME or field:NAME"):
            async with app:
                pass

    asyncio.run(story())
