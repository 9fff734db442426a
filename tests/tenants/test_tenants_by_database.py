"""One application, a log for each tenant: opened when needed, a bounded number of them, and no way from one to another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue import FORGOTTEN, App, Channel, Command, Criteria, Event, Personal, Query, State, View
from ensue.app import open_tenants
from ensue.app.tenants import checked_tenant
from ensue.app.urls import log_exists
from ensue.errors import DefinitionError, InvalidTenant, Unavailable, WrongLog


class OrderPlaced(Event, key="order_id", subject="order_id"):
    order_id: str
    note: Personal[str] = ""


class OrderShipped(Event, key="order_id"):
    order_id: str


class Order(State, key="order_id"):
    placed: int = 0

    def evolve(self, event: OrderPlaced) -> Self:
        self.placed += 1
        return self


class Place(Command[OrderPlaced]):
    order_id: str


class PlacedOf(Query[int]):
    order_id: str


class OrderRow(View, key="order_id"):
    order_id: str
    placed: int = 0

    def evolve(self, event: OrderPlaced) -> Self:
        self.placed += 1
        return self


def application(url: str) -> App:
    app = App("shop", url=url)

    @app.on
    async def ship(placed: OrderPlaced) -> OrderShipped:
        return OrderShipped(order_id=placed.order_id)

    @app.command
    def place(command: Place, order: Order) -> OrderPlaced:
        return OrderPlaced(order_id=command.order_id, note=str(order.placed))

    @app.query
    def placed_of(query: PlacedOf, order: Order) -> int:
        return order.placed

    app.view(OrderRow)
    return app


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> App:
    if request.param == "sqlite":
        return application(f"sqlite:///{tmp_path}/{{tenant}}.db")
    address = request.getfixturevalue("postgresql")
    import psycopg

    with psycopg.connect(address.url(), autocommit=True) as connection:
        for name in ("acme", "globex"):
            connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
            connection.execute(f"CREATE SCHEMA {name}")
    return application(f"{address.url()}?options=-csearch_path%3D{{tenant}}")


async def everything(app: App, after: Any) -> list[object]:
    """What every door of the application shows."""
    await app.wait(after)
    return [
        [(one.key, one.type_name) async for one in app.log.read()],
        [one.key async for one in app.log.read(criteria=Criteria(order_id="o1"))],
        [one.event.order_id async for one in app.log.read(OrderPlaced, backwards=True)],
        await app.log.version(OrderPlaced, "o1"),
        await app.ask(PlacedOf(order_id="o1"), after=after),
        (await app.state(Order, "o1")).placed,
        await app.get(OrderRow, "o1", after=after),
        app.sql("SELECT count(*) FROM order_row"),
        (await app.log.head()).last,
        [letter async for letter in app.dead_letters.list()],
    ]


def test_two_tenants_have_nothing_in_common_whatever_is_asked(shop: App) -> None:
    async def run() -> None:
        async with shop:
            async with shop.tenant("acme", create=True) as acme, shop.tenant("globex", create=True) as globex:
                first = await acme.publish(OrderPlaced(order_id="o1", note="for Ada"), idempotency_key="k")
                second = await acme.send(Place(order_id="o1"))
                await acme.wait(first.position)
                other = await globex.publish(OrderPlaced(order_id="o2"), idempotency_key="k")
                assert not other.replayed
                assert await everything(globex, other.position) == [
                    [("order_id=o2", "OrderPlaced"), ("order_id=o2", "OrderShipped")], [], ["o2"], 0, 0, 0, None, [(1,)], 2, [],
                ]  # fmt: skip
                assert (await everything(acme, second.position))[3:8] == [
                    4,
                    2,
                    2,
                    OrderRow(order_id="o1", placed=2),
                    [(1,)],
                ]
                with pytest.raises(WrongLog):
                    await globex.ask(PlacedOf(order_id="o1"), after=first.position)
                with pytest.raises(WrongLog):
                    await globex.wait(first.position)
                await acme.publish(OrderPlaced(order_id="o2", note="for Grace"))
                assert (await globex.forget("order_id", "o1")).result is False
                assert (await acme.forget("order_id", "o1")).result is True
                notes = [one.event.note async for one in acme.log.read(OrderPlaced)]
                assert notes == [FORGOTTEN, FORGOTTEN, "for Grace"]

    asyncio.run(run())


def test_the_application_itself_has_no_log_and_says_so_at_every_door(tmp_path: Path) -> None:
    shop = application(f"sqlite:///{tmp_path}/{{tenant}}.db")
    asked: list[Callable[[], Any]] = [
        lambda: shop.publish(OrderPlaced(order_id="o1")),
        lambda: shop.send(Place(order_id="o1")),
        lambda: shop.ask(PlacedOf(order_id="o1")),
        lambda: shop.get(OrderRow, "o1"),
        lambda: shop.state(Order, "o1"),
        lambda: shop.forget("order_id", "o1"),
        lambda: shop.transact(lambda tx: None),
        lambda: shop.log.append(OrderPlaced(order_id="o1")),
        lambda: shop.log.head(),
        lambda: shop.log.version(OrderPlaced, "o1"),
        lambda: anext(aiter(shop.log.read())),
        lambda: anext(aiter(shop.dead_letters.list())),
        lambda: anext(aiter(shop.watch(PlacedOf(order_id="o1")))),
    ]

    async def run() -> None:
        async with shop:
            for ask in asked:
                with pytest.raises(InvalidTenant, match="say which"):
                    await ask()
            for plain in (lambda: shop.sql("SELECT 1"), shop.open_store, shop.transaction):
                with pytest.raises(InvalidTenant, match="say which"):
                    plain()

    asyncio.run(run())
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=70))
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    try:
        checked_tenant(name)
    except InvalidTenant:
        return
    assert name.isascii()
    assert name == name.lower()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
    assert 0 < len(name) <= 63


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "../acme", "Acme", "a.b", "a%2Fb", "-a", "a b", "a" * 64, "a\n", "ä", None, 7]
)
def test_names_with_a_trick_in_them_are_refused_and_make_no_file(tmp_path: Path, name: Any) -> None:
    shop = application(f"sqlite:///{tmp_path}/{{tenant}}.db")

    async def run() -> None:
        async with shop.connected():
            with pytest.raises(InvalidTenant):
                async with shop.tenant(name, create=True):
                    pass

    asyncio.run(run())
    assert list(tmp_path.iterdir()) == []


def test_a_tenant_that_is_not_there_is_not_made_by_asking_for_it(tmp_path: Path) -> None:
    shop = application(f"sqlite:///{tmp_path}/{{tenant}}.db")

    async def run() -> None:
        async with shop.connected():
            with pytest.raises(InvalidTenant, match="there is no tenant 'acme'"):
                async with shop.tenant("acme"):
                    pass
            assert not log_exists(f"sqlite:///{tmp_path}/acme.db")
            async with shop.tenant("acme", create=True):
                pass
            async with shop.tenant("acme") as acme:
                assert (await acme.log.head()).last == 0
        with pytest.raises(Unavailable):
            shop.tenant("acme")
        with pytest.raises(InvalidTenant, match="has no tenants"):
            App("plain").tenant("acme")

    asyncio.run(run())


def test_so_many_are_open_and_no_more_and_what_is_used_is_never_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_tenants, "MOST_OPEN", 3)
    shop = application(f"sqlite:///{tmp_path}/{{tenant}}.db")

    async def visit(number: int) -> None:
        async with shop.tenant(f"t{number}", create=True) as one:
            await one.publish(OrderPlaced(order_id=f"o{number}"))
            assert shop._tenants is not None
            assert len(shop._tenants) <= 3
            seen = [recorded.event.order_id async for recorded in one.log.read(OrderPlaced)]
            assert set(seen) == {f"o{number}"}

    async def run() -> None:
        async with shop:
            async with shop.tenant("t0", create=True) as kept:
                for number in [1, 2, 3, 4, 1, 5, 2]:
                    await visit(number)
                await kept.publish(OrderPlaced(order_id="o0"))
                async with shop.tenant("t1"), shop.tenant("t2"):
                    with pytest.raises(Unavailable, match="3 tenants are in use"):
                        await visit(3)
            await asyncio.gather(*(visit(1) for _ in range(10)), *(visit(2) for _ in range(10)))

    asyncio.run(run())


def test_handlers_of_a_tenant_run_while_it_is_open_and_go_on_when_it_is_opened_again(tmp_path: Path) -> None:
    shop = application(f"sqlite:///{tmp_path}/{{tenant}}.db")

    async def run() -> None:
        async with shop.connected(), shop.tenant("acme", create=True) as acme:
            written = await acme.publish(OrderPlaced(order_id="o1"))
            assert [one async for one in acme.log.read(OrderShipped)] == []
        async with shop, shop.tenant("acme") as acme:
            await acme.wait(written.position)
            assert len([one async for one in acme.log.read(OrderShipped)]) == 1
        async with shop.of_tenant("acme") as alone:
            assert len([one async for one in alone.log.read(OrderShipped)]) == 1

    asyncio.run(run())


def test_a_handler_is_given_the_application_of_its_tenant(tmp_path: Path) -> None:
    shop = application(f"sqlite:///{tmp_path}/{{tenant}}.db")
    seen: list[str] = []

    @shop.on
    async def look(shipped: OrderShipped, own: App) -> None:
        seen.append(own.settings.url)

    async def run() -> None:
        async with shop:
            for name in ("acme", "globex"):
                async with shop.tenant(name, create=True) as one:
                    await (await one.publish(OrderPlaced(order_id="o1"))).wait()

    asyncio.run(run())
    assert [Path(url).name for url in seen] == ["acme.db", "globex.db"]


def test_what_would_mix_tenants_is_refused(tmp_path: Path) -> None:
    orders = Channel("orders", OrderPlaced)
    inbox = App("in", url=f"sqlite:///{tmp_path}/{{tenant}}.db", inbox=[orders])
    keys = App("keys", url=f"sqlite:///{tmp_path}/{{tenant}}.db", keys=f"sqlite:///{tmp_path}/all.keys")

    async def run() -> None:
        for app, words in ((inbox, "says nothing of tenants"), (keys, "share the keys")):
            async with app.connected():
                with pytest.raises(DefinitionError, match=words):
                    async with app.tenant("acme", create=True):
                        pass

    asyncio.run(run())
    assert list(tmp_path.iterdir()) == []
