"""Rows with personal data: each is of one subject, and forgets it when the log says so, however the view is kept."""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path
from typing import Any, Self

import pytest

from ensue import FORGOTTEN, App, Event, Forgotten, Personal, SubjectForgotten, Transaction, View
from ensue.errors import DefinitionError

EMAIL, OTHER = "ada.lovelace@example.com", "grace.hopper@example.com"


class CustomerJoined(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[str]
    born: Personal[date] = date(1815, 12, 10)
    phone: Personal[str | None] = None


class OrderPlaced(Event, key="order_id", tags=("customer_id",), subject="customer_id"):
    order_id: str
    customer_id: str
    address: Personal[str]


class Profile(View, key="customer_id"):
    customer_id: str
    email: Personal[str] = ""
    born: Personal[date] = date(1, 1, 1)
    phone: Personal[str | None] = None
    joined: int = 0

    def evolve(self, event: CustomerJoined) -> Self:
        self.email, self.born, self.phone = event.email, event.born, event.phone
        self.joined += 1
        return self


KINDS: list[dict[str, Any]] = [{}, {"when": "inline"}, {"when": "live"}, {"database": "elsewhere"}]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        found: str = request.getfixturevalue("postgresql_url")
        return found
    return f"sqlite:///{tmp_path / 'people.db'}"


def application(url: str, tmp_path: Path, kind: dict[str, Any]) -> App:
    app = App("people", url=url)
    if "database" in kind:
        kind = {"database": f"sqlite:///{tmp_path / 'views.db'}"}
    view: Any = app.view
    view(**kind)(Profile)
    return app


def in_files(folder: Path, text: str) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.is_file() and text.encode() in file.read_bytes())


@pytest.mark.parametrize("kind", KINDS, ids=["after", "inline", "live", "elsewhere"])
def test_a_row_forgets_and_a_view_that_is_built_anew_has_the_same_rows(
    url: str, tmp_path: Path, kind: dict[str, Any]
) -> None:
    async def run() -> None:
        async with application(url, tmp_path, kind) as app:
            await app.publish(CustomerJoined(customer_id="c1", email=EMAIL, phone="+44 20"))
            written = await app.publish(CustomerJoined(customer_id="c2", email=OTHER))
            row = await app.get(Profile, "c1", after=written.position)
            assert row == Profile(customer_id="c1", email=EMAIL, born=date(1815, 12, 10), phone="+44 20", joined=1)
            told = await app.forget("customer_id", "c1")
            gone = Profile(customer_id="c1", email=FORGOTTEN, born=FORGOTTEN, phone=FORGOTTEN, joined=1)
            assert await app.get(Profile, "c1", after=told.position) == gone
            kept = await app.get(Profile, "c2")
            assert kept is not None
            assert (kept.email, kept.phone) == (OTHER, None)
            again = await app.publish(CustomerJoined(customer_id="c1", email=FORGOTTEN, born=FORGOTTEN))
            assert await app.get(Profile, "c1", after=again.position) == Profile(
                customer_id="c1", email=FORGOTTEN, born=FORGOTTEN, phone=None, joined=2
            )
            nobody = await app.forget("customer_id", "c7")
            assert await app.get(Profile, "c7", after=nobody.position) is None
        async with App("people", url=url).connected() as other:
            fresh = other.log.read(CustomerJoined)
            assert [one.event.email async for one in fresh] == [FORGOTTEN, OTHER, FORGOTTEN]

    asyncio.run(run())
    if url.startswith("sqlite"):
        assert in_files(tmp_path, EMAIL) == []


def test_a_view_that_is_built_from_a_log_in_which_somebody_was_forgotten_has_never_known(
    url: str, tmp_path: Path
) -> None:
    async def run() -> None:
        async with App("people", url=url).connected() as app:
            await app.publish(*(CustomerJoined(customer_id=f"c{number}", email=EMAIL) for number in range(5)))
            await app.forget("customer_id", "c3")
        async with application(url, tmp_path, {}) as app:
            shown = [row.email for number in range(5) if (row := await app.get(Profile, f"c{number}")) is not None]
            assert shown == [EMAIL, EMAIL, EMAIL, FORGOTTEN, EMAIL]

    asyncio.run(run())


def test_columns_are_ordinary_and_null_where_they_are_forgotten(tmp_path: Path) -> None:
    async def run() -> None:
        async with application(f"sqlite:///{tmp_path / 'people.db'}", tmp_path, {"when": "inline"}) as app:
            await app.publish(CustomerJoined(customer_id="c1", email=EMAIL, phone="+44 20"))
            sql = "SELECT email, born, phone FROM profile WHERE customer_id = 'c1'"
            assert app.sql(sql) == [(EMAIL, "1815-12-10", '"+44 20"')]
            await app.forget("customer_id", "c1")
            assert app.sql(sql) == [(None, None, '{"type":"forgotten"}')]

    asyncio.run(run())


def test_a_row_with_personal_data_of_somebody_whom_its_key_does_not_name_is_refused(tmp_path: Path) -> None:
    class Order(View, key="order_id"):
        order_id: str
        address: Personal[str] = ""

        def evolve(self, event: OrderPlaced) -> Self:
            self.address = event.address
            return self

    app = App("orders", url=f"sqlite:///{tmp_path / 'orders.db'}")
    app.view(Order)

    async def run() -> None:
        async with app:
            pass

    with pytest.raises(DefinitionError, match="each row is of one subject"):
        asyncio.run(run())


def test_plain_sql_of_a_users_own_forgets_by_a_handler_that_is_told(tmp_path: Path) -> None:
    app = App("orders", url=f"sqlite:///{tmp_path / 'orders.db'}")

    @app.on
    def keep(placed: OrderPlaced, tx: Transaction) -> None:
        tx.execute("CREATE TABLE IF NOT EXISTS parcel (order_id TEXT PRIMARY KEY, customer_id TEXT, address TEXT)")
        address = None if isinstance(placed.address, Forgotten) else placed.address
        tx.execute("INSERT INTO parcel VALUES (?, ?, ?)", placed.order_id, placed.customer_id, address)

    @app.on
    def forget(told: SubjectForgotten, tx: Transaction) -> None:
        tx.execute("UPDATE parcel SET address = NULL WHERE 'customer_id=' || customer_id = ?", told.subject)

    async def run() -> None:
        async with app:
            placed = OrderPlaced(order_id="o1", customer_id="c1", address="12 St James's Square")
            await (await app.publish(placed)).wait()
            assert app.sql("SELECT address FROM parcel") == [("12 St James's Square",)]
            await (await app.forget("customer_id", "c1")).wait()
            assert app.sql("SELECT address FROM parcel") == [(None,)]

    asyncio.run(run())
