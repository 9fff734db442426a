"""Tenants in one log: what is one's is found by nobody else, whatever is asked, and what says no tenant is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensue import (
    App,
    Command,
    Context,
    Criteria,
    Event,
    Personal,
    Query,
    Recorded,
    Refusal,
    Retry,
    State,
    Transaction,
    View,
)
from ensue.consumers.verify import verify
from ensue.errors import Conflict, DefinitionError, InvalidTenant, MissingCapability
from ensue.world import RealWorld


class OrderPlaced(Event, key="order_id", tags=("customer_id",)):
    order_id: str
    customer_id: str = "c"
    note: str = ""


class OrderShipped(Event, key="order_id"):
    order_id: str
    note: str = ""


class Joined(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[str]


class TooMany(Refusal):
    placed: int


class Order(State, key="order_id"):
    notes: list[str] = []  # noqa: RUF012  # a struct's default is copied

    def evolve(self, event: OrderPlaced) -> Self:
        self.notes.append(event.note)
        return self


class Place(Command[OrderPlaced]):
    order_id: str
    note: str = ""


class NotesOf(Query[list[str]]):
    order_id: str


class LiveOrder(View, key="order_id"):
    order_id: str
    notes: list[str] = []  # noqa: RUF012  # a struct's default is copied

    def evolve(self, event: OrderPlaced) -> Self:
        self.notes.append(event.note)
        return self


def application(url: str) -> App:
    app = App("shop", url=url, tenants="tag", retry=Retry.never)

    @app.on
    async def ship(placed: OrderPlaced, ctx: Context) -> OrderShipped:
        if placed.note.endswith("broken"):
            raise ValueError(placed.note)
        assert ctx.tenant is not None
        return OrderShipped(order_id=placed.order_id, note=f"{ctx.tenant}: {placed.note}")

    @app.on(key="customer_id")
    async def count(placed: OrderPlaced) -> None: ...

    @app.command
    def place(command: Place, order: Order) -> OrderPlaced:
        if len(order.notes) >= 3:
            raise TooMany(placed=len(order.notes))
        return OrderPlaced(order_id=command.order_id, note=command.note)

    @app.query
    def notes_of(query: NotesOf, order: Order) -> list[str]:
        return order.notes

    app.view(when="live")(LiveOrder)
    return app


@pytest.fixture(params=["sqlite", "postgresql", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shop.db'}"
    found: str = "memory:" if request.param == "memory" else request.getfixturevalue("postgresql_url")
    return found


async def shown(app: App, order: str) -> dict[str, Any]:
    """What every door that reads shows, for one order and for all."""
    placed = [one async for one in app.log.read(OrderPlaced)]
    return {
        "all": [one.event async for one in app.log.read()],
        "types": [one.event.note for one in placed],
        "backwards": [one.event.note async for one in app.log.read(OrderPlaced, backwards=True)],
        "criteria": [one.event async for one in app.log.read(criteria=Criteria(order_id=order))],
        "either": [
            one.event
            async for one in app.log.read(criteria=Criteria(OrderShipped, order_id=order) | Criteria(customer_id="c"))
        ],
        "version": await app.log.version(OrderPlaced, order),
        "ask": await app.ask(NotesOf(order_id=order)),
        "state": (await app.state(Order, order)).notes,
        "get": await app.get(LiveOrder, order, after=await app.log.head()),
        "letters": [letter async for letter in app.dead_letters.list()],
        "watch": await anext(aiter(app.watch(NotesOf(order_id=order)))),
    }


def test_two_tenants_orders_of_one_name_have_nothing_in_common(url: str) -> None:
    async def run() -> None:
        async with application(url) as shop, shop.tenant("acme") as acme, shop.tenant("globex") as globex:
            first = await acme.publish(OrderPlaced(order_id="o1", note="acme's"), idempotency_key="k")
            other = await globex.publish(OrderPlaced(order_id="o1", note="globex's"), idempotency_key="k")
            assert not other.replayed
            assert (await acme.publish(OrderPlaced(order_id="o1", note="acme's"), idempotency_key="k")).replayed
            await acme.send(Place(order_id="o1", note="acme's"), idempotency_key="s")
            await globex.publish(OrderPlaced(order_id="o2", note="globex's, broken"))
            for receipt in (first, other):
                await receipt.wait()
            async with asyncio.timeout(20):
                letters = [letter async for letter in globex.dead_letters.list()]
                while not letters:
                    await asyncio.sleep(0)
                    letters = [letter async for letter in globex.dead_letters.list()]
            mine, others = await shown(acme, "o1"), await shown(globex, "o1")
            assert mine["types"] == mine["ask"] == mine["state"] == mine["watch"] == ["acme's"] * 2
            assert others["ask"] == ["globex's"]
            assert "globex" not in str(mine)
            assert "acme" not in str(others)
            assert (mine["version"], mine["letters"]) == (4, [])
            assert others["version"] == 2
            with pytest.raises(Conflict):
                await acme.log.append(OrderPlaced(order_id="o1"), expected_version=2)
            await globex.log.append(OrderPlaced(order_id="o1"), expected_version=2)
            await globex.log.append(OrderPlaced(order_id="o9"), unless=Criteria(OrderPlaced, order_id="o3"))
            await acme.log.append(OrderPlaced(order_id="o3"))
            await globex.log.append(OrderPlaced(order_id="o9"), unless=Criteria(OrderPlaced, order_id="o3"))
            with pytest.raises(Conflict):
                await acme.log.append(OrderPlaced(order_id="o9"), unless=Criteria(OrderPlaced, order_id="o3"))

    asyncio.run(run())


def test_what_handlers_return_belongs_to_whom_the_event_belongs(url: str) -> None:
    async def run() -> None:
        async with application(url) as shop:
            for name in ("acme", "globex"):
                async with shop.tenant(name) as one:
                    await (await one.publish(OrderPlaced(order_id="o1", note="n"))).wait()
                    shipped = [recorded async for recorded in one.log.read(OrderShipped)]
                    assert [recorded.event.note for recorded in shipped] == [f"{name}: n"]
                    assert shipped[0].headers == {"ensue-tenant": name}

    asyncio.run(run())


def test_a_failure_of_one_tenant_stops_no_key_of_another(url: str) -> None:
    shop = App("shop", url=url, tenants="tag", retry=Retry.never)

    @shop.on(key="customer_id")
    async def see(placed: OrderPlaced) -> OrderShipped:
        if placed.note == "broken":
            raise ValueError("broken")
        return OrderShipped(order_id=placed.order_id)

    async def run() -> None:
        async with shop, shop.tenant("acme") as acme, shop.tenant("globex") as globex:
            await acme.publish(OrderPlaced(order_id="o1", customer_id="c", note="broken"))
            async with asyncio.timeout(20):
                letters = [letter async for letter in acme.dead_letters.list()]
                while not letters:
                    await asyncio.sleep(0)
                    letters = [letter async for letter in acme.dead_letters.list()]
            assert letters[0].key_text == "acme/customer_id=c"
            await (await globex.publish(OrderPlaced(order_id="o1", customer_id="c"))).first(OrderShipped)

    asyncio.run(run())


def test_a_decision_is_held_against_its_own_tenant_alone(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as shop, shop.tenant("acme") as acme, shop.tenant("globex") as globex:
            for _ in range(3):
                await acme.send(Place(order_id="o1"))
            with pytest.raises(TooMany):
                await acme.send(Place(order_id="o1"))
            await asyncio.gather(*(globex.send(Place(order_id="o1")) for _ in range(3)))
            with pytest.raises(TooMany):
                await globex.send(Place(order_id="o1"), idempotency_key="k")

    asyncio.run(run())


def test_every_door_of_the_application_itself_asks_for_a_tenant(tmp_path: Path) -> None:
    shop = application(f"sqlite:///{tmp_path / 'shop.db'}")
    asked: list[Callable[[], Any]] = [
        lambda: shop.publish(OrderPlaced(order_id="o1")),
        lambda: shop.send(Place(order_id="o1")),
        lambda: shop.ask(NotesOf(order_id="o1")),
        lambda: shop.get(LiveOrder, "o1"),
        lambda: shop.state(Order, "o1"),
        lambda: shop.forget("order_id", "o1"),
        lambda: shop.transact(lambda tx: None),
        lambda: shop.log.append(OrderPlaced(order_id="o1")),
        lambda: shop.log.head(),
        lambda: shop.log.version(OrderPlaced, "o1"),
        lambda: anext(aiter(shop.log.read())),
        lambda: anext(aiter(shop.dead_letters.list())),
        lambda: anext(aiter(shop.watch(NotesOf(order_id="o1")))),
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


def test_rows_of_one_database_are_not_reached_from_a_tenant(tmp_path: Path) -> None:
    shop = application(f"sqlite:///{tmp_path / 'shop.db'}")

    def all_of_them(tx: Transaction) -> list[tuple[object, ...]]:
        return tx.execute("SELECT data FROM ensue_event")

    async def run() -> None:
        async with shop.connected(), shop.tenant("acme") as acme:
            await acme.publish(OrderPlaced(order_id="o1", note="acme's"))
            with pytest.raises(MissingCapability):
                acme.sql("SELECT data FROM ensue_event")
            with pytest.raises(MissingCapability, match="database of its own"):
                await acme.transact(all_of_them)
            with pytest.raises(MissingCapability):
                async with acme.transaction():
                    pass
            store: Any = acme.open_store()
            for name in ("query", "select", "look", "dialect", "inner", "path"):
                assert not hasattr(store, name), name

    asyncio.run(run())


def test_what_tenants_by_tag_cannot_keep_apart_is_refused_when_the_application_opens(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"

    class Row(View, key="order_id"):
        order_id: str

        def evolve(self, event: OrderPlaced) -> Self:
            return self

    table = App("table", url=url, tenants="tag")
    table.view(Row)
    inside = App("inside", url=url, tenants="tag")

    @inside.on
    def see(event: OrderPlaced, tx: Transaction) -> None: ...

    async def run() -> None:
        with pytest.raises(DefinitionError, match="has one table"):
            async with table:
                pass
        with pytest.raises(MissingCapability):
            async with inside:
                pass
        async with application(url).connected() as shop, shop.tenant("acme") as acme:
            with pytest.raises(DefinitionError, match="personal data"):
                await acme.publish(Joined(customer_id="c", email="ada@example.com"))
            with pytest.raises(DefinitionError, match="personal data"):
                await acme.forget("customer_id", "c")

    asyncio.run(run())
    wrong: Any = "row"
    with pytest.raises(DefinitionError, match="tenants='row'"):
        App("wrong", tenants=wrong)


def test_a_tenant_cannot_be_claimed_by_a_header_and_a_log_is_whole(tmp_path: Path) -> None:
    shop = application(f"sqlite:///{tmp_path / 'shop.db'}")

    async def run() -> None:
        async with shop, shop.tenant("acme") as acme, shop.tenant("globex") as globex:
            await acme.publish(OrderPlaced(order_id="o1", note="x"), headers={"ensue-tenant": "globex"})
            assert [one async for one in globex.log.read()] == []
            written = await acme.publish(OrderPlaced(order_id="o1", note="broken"))
            read: list[Recorded[Any]] = [one async for one in acme.log.read(OrderPlaced)]
            await globex.log.append(read[0].event)
            assert [one.event.note async for one in globex.log.read(OrderPlaced)] == ["x"]
            assert await globex.log.version(OrderPlaced, "o1") >= 1
            async with asyncio.timeout(20):
                letters = [letter async for letter in acme.dead_letters.list()]
                while not letters:
                    await asyncio.sleep(0)
                    letters = [letter async for letter in acme.dead_letters.list()]
            assert written.position

    asyncio.run(run())

    async def check() -> None:
        from ensue.app.urls import open_store

        store = open_store(f"sqlite:///{tmp_path / 'shop.db'}", read_only=True)
        world = RealWorld()
        await store.open(world)
        report = await verify(store, world)
        await store.close()
        assert not report.findings, report.findings

    asyncio.run(check())


STEP = st.tuples(
    st.sampled_from(["acme", "globex"]), st.sampled_from(["publish", "send", "append"]), st.sampled_from(["o1", "o2"])
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, max_size=12))
def test_whatever_two_tenants_do_no_door_shows_one_what_is_the_others(steps: list[tuple[str, str, str]]) -> None:
    async def run() -> None:
        async with (
            application("memory:").connected() as shop,
            shop.tenant("acme") as acme,
            shop.tenant("globex") as globex,
        ):
            both = {"acme": acme, "globex": globex}
            did: dict[str, list[tuple[str, str]]] = {"acme": [], "globex": []}
            for name, how, order in steps:
                app = both[name]
                if how == "send":
                    try:
                        await app.send(Place(order_id=order, note=name))
                    except TooMany:
                        continue
                elif how == "publish":
                    await app.publish(OrderPlaced(order_id=order, note=name))
                else:
                    await app.log.append(OrderPlaced(order_id=order, note=name))
                did[name].append((order, name))
            for name, app in both.items():
                for order in ("o1", "o2"):
                    found = await shown(app, order)
                    own = [note for placed, note in did[name] if placed == order]
                    assert found["ask"] == found["state"] == found["watch"] == own
                    assert found["version"] == len(found["criteria"]) == len(own)
                    assert found["types"] == found["backwards"] == [name] * len(did[name])
                    assert len(found["all"]) == len(found["either"]) == len(did[name])
                    row = found["get"]
                    assert (row.notes if row is not None else []) == own

    asyncio.run(run())
