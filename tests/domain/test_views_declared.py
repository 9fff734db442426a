"""What is wrong with a view is said where it is declared, or when the application opens; and which rows an event touches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Self
from uuid import UUID

import pytest

from ensue import App, Event, Recorded, View, upcast
from ensue.domain.view import ViewDefinition, analyse_view
from ensue.domain.views import registry
from ensue.domain.views.reading import Reading
from ensue.domain.views.table import Table
from ensue.errors import DefinitionError, MissingCapability
from ensue.events.registry import Registry
from tests.domain.accounts import Moved, Noted, Profile, expected


class Paid(Event, key="account_id"):
    account_id: str
    amount: int = 0


class Other(Event, key="thing_id"):
    thing_id: str


def no_key() -> object:
    class Row(View):
        account_id: str

        def evolve(self, event: Paid) -> Self:
            return self

    return App("bank").view(Row)


def unknown_key() -> object:
    class Row(View, key="account"):
        account_id: str

        def evolve(self, event: Paid) -> Self:
            return self

    return App("bank").view(Row)


def optional_key() -> object:
    class Row(View, key="account_id"):
        account_id: str | None

        def evolve(self, event: Paid) -> Self:
            return self

    return App("bank").view(Row)


def no_default() -> object:
    class Row(View, key="account_id"):
        account_id: str
        total: int

        def evolve(self, event: Paid) -> Self:
            return self

    return App("bank").view(Row)


def unknown_index() -> object:
    class Row(View, key="account_id", index=("owner",)):
        account_id: str

        def evolve(self, event: Paid) -> Self:
            return self

    return App("bank").view(Row)


def odd_table() -> object:
    class Row(View, key="account_id", table="Konto; DROP TABLE ensue_event"):
        account_id: str

        def evolve(self, event: Paid) -> Self:
            return self

    return App("bank").view(Row)


def our_table() -> object:
    class Row(View, key="account_id", table="ensue_event"):
        account_id: str

        def evolve(self, event: Paid) -> Self:
            return self

    return App("bank").view(Row)


def no_evolve() -> object:
    class Row(View, key="account_id"):
        account_id: str

    return App("bank").view(Row)


def no_column() -> object:
    class Row(View, key="account_id"):
        account_id: str
        odd: Callable[[], int] | list[complex] | None = None

        def evolve(self, event: Paid) -> Self:
            return self

    return App("bank").view(Row)


WRONG: dict[Callable[[], object], str] = {
    no_key: "say which field identifies a row",
    unknown_key: "key='account' is not a field of it; its fields are: account_id",
    optional_key: "account_id is its key, which is a text, .* and never None",
    no_default: "give total a default: a row begins with its key and the defaults of all else",
    unknown_index: "index='owner' is not a field of it",
    odd_table: "a table's name has small letters, digits and _",
    our_table: "does not begin with ensue_, sqlite_, pg_",
    no_evolve: "has no evolve",
    no_column: "cannot be a column",
}


@pytest.mark.parametrize("declare", WRONG, ids=lambda declare: declare.__name__)
def test_what_is_wrong_with_a_view_is_said_where_it_is_declared(declare: Callable[[], object]) -> None:
    with pytest.raises(DefinitionError, match=WRONG[declare]):
        declare()


class Row(View, key="account_id"):
    account_id: str
    total: int = 0

    def evolve(self, event: Paid | Other) -> Self:
        return self


class Same(View, key="account_id", table="row"):
    account_id: str

    def evolve(self, event: Paid) -> Self:
        return self


def opened(url: str, *views: type[View]) -> None:
    async def run() -> None:
        app = App("bank", url=url)
        for view in views:
            app.view(view)
        async with app:
            pass

    asyncio.run(run())


def test_an_event_without_the_rows_key_is_refused_when_the_application_opens(file_url: str) -> None:
    with pytest.raises(DefinitionError, match="Other, which it reads, has no such key, tag or field"):
        opened(file_url, Row)


def test_two_views_of_one_table_are_refused(file_url: str) -> None:
    class Again(View, key="account_id", table="row"):
        account_id: str

        def evolve(self, event: Paid) -> Self:
            return self

    with pytest.raises(DefinitionError, match="two views have the table 'row'"):
        opened(file_url, Same, Again)


def test_a_store_without_sql_cannot_keep_a_table() -> None:
    with pytest.raises(MissingCapability, match="a view needs SQL"):
        opened("memory:", Same)


def test_a_view_that_is_not_the_applications_is_refused(file_url: str) -> None:
    async def run() -> None:
        async with App("bank", url=file_url).connected() as app:
            with pytest.raises(DefinitionError, match="Same is no view of this application"):
                await app.get(Same, "a1")

    asyncio.run(run())


# ---------------------------------------------------------------------------------------------------- what is touched


class Kind(Enum):
    A = "a"
    B = "b"


class Typed(Event, key={"number": "number_id"}, tags={"uid": "uid", "day": "day", "kind": "kind", "price": "price"}):
    number: int
    uid: UUID
    day: date
    kind: Kind
    price: Decimal


class OfAll(View, key=("number_id", "uid", "day", "kind", "price")):
    number_id: int
    uid: UUID
    day: date
    kind: Kind
    price: Decimal
    seen: datetime | None = None
    count: int = 0

    def evolve(self, event: Recorded[Typed]) -> Self:
        self.seen, self.count = event.recorded_at, self.count + 1
        return self


def test_keys_have_the_types_of_the_views_fields_and_evolve_sees_when_an_event_was_stored(shared_url: str) -> None:
    key = (5, UUID(int=7), date(2026, 3, 1), Kind.B, Decimal("1.50"))
    event = Typed(number=5, uid=key[1], day=key[2], kind=key[3], price=key[4])

    async def run() -> None:
        async with App("bank", url=shared_url).connected() as app:
            await app.publish(event)
        app = App("bank", url=shared_url)
        app.view(OfAll)
        async with app:
            receipt = await app.publish(event)
            row = await app.get(OfAll, *key, after=receipt.position)
            assert row is not None
            assert (row.number_id, row.uid, row.day, row.kind, row.price, row.count) == (*key, 2)
            last = [recorded async for recorded in app.log.read(Typed)][-1]
            assert row.seen == last.recorded_at
            assert (row.seen or datetime.now(UTC)).tzinfo is UTC

    asyncio.run(run())


def reading(view: type[View]) -> Reading:
    return Reading(analyse_view(view, {}), Registry())


class Owned(Event, key="thing_id", tags={"owner_id": "owner_id"}):
    thing_id: str
    owner_id: str | None


class OwnedOnly(View, key="owner_id"):
    owner_id: str

    def evolve(self, event: Owned) -> Self:
        return self


@pytest.mark.parametrize(("view", "order"), [(Same, None), (OwnedOnly, "owner_id"), (Profile, None)])
def test_events_are_handled_in_the_order_of_the_rows_where_each_touches_one(
    view: type[View], order: str | None
) -> None:
    assert reading(view).key_tag == order


def test_events_that_touch_two_rows_stand_in_one_order() -> None:
    class Balance(View, key="account_id"):
        account_id: str

        def evolve(self, event: Moved) -> Self:
            return self

    found = Reading(analyse_view(Balance, {"Self": Self, "Moved": Moved}), Registry())
    assert found.key_tag == ""


def test_none_touches_no_row(file_url: str) -> None:
    async def run() -> None:
        app = App("bank", url=file_url)
        app.view(OwnedOnly)
        async with app:
            receipt = await app.publish(Owned(thing_id="t1", owner_id=None), Owned(thing_id="t2", owner_id="o1"))
            assert await app.get(OwnedOnly, "o1", after=receipt.position) == OwnedOnly(owner_id="o1")
            assert app.sql("SELECT * FROM owned_only") == [("o1",)]

    asyncio.run(run())


class Named(Event, key="person_id", version=2, name="views.Named"):
    person_id: str
    full_name: str


class OldNamed(Event, key="person_id", name="views.Named"):
    person_id: str
    first: str


class Person(View, key="person_id"):
    person_id: str
    full_name: str = ""

    def evolve(self, event: Named) -> Self:
        self.full_name = event.full_name
        return self


@upcast("views.Named", version=1)
def _full(old: dict[str, Any]) -> dict[str, Any]:
    return {"person_id": old["person_id"], "full_name": f"{old['first']} Unknown"}


def test_events_of_former_versions_are_read_as_those_of_today(shared_url: str) -> None:
    async def run() -> None:
        async with App("people", url=shared_url).connected() as app:
            await app.publish(OldNamed(person_id="p1", first="Ada"))
        app = App("people", url=shared_url)
        app.view(Person)
        async with app:
            receipt = await app.publish(Named(person_id="p2", full_name="Grace Hopper"))
            assert await app.get(Person, "p2", after=receipt.position) == Person(
                person_id="p2", full_name="Grace Hopper"
            )
            assert await app.get(Person, "p1") == Person(person_id="p1", full_name="Ada Unknown")

    asyncio.run(run())


class Wayward(View, key="account_id"):
    account_id: str

    def evolve(self, event: Paid) -> Any:
        if event.amount == 1:
            self.account_id = "another"
        return self if event.amount < 2 else {"account_id": "no row"}


def test_what_is_no_row_of_that_key_parks_it(file_url: str) -> None:
    async def run() -> list[str]:
        app = App("bank", url=file_url)
        app.view(Wayward)
        async with app:
            receipt = await app.publish(*(Paid(account_id=f"a{number}", amount=number) for number in range(3)))
            assert await app.get(Wayward, "a0", after=(await app.publish(Paid(account_id="a0"))).position) is not None
            assert receipt.position
            return [letter.reason async for letter in app.dead_letters.list()]

    reasons = sorted(asyncio.run(run()))
    assert len(reasons) == 2
    assert "it returns the row, or None to delete it" in reasons[0]
    assert "made 'another' of the key account_id='a1'; a row keeps its key" in reasons[1]


def test_large_values_are_kept_whole(shared_url: str) -> None:
    notes = [
        Noted(account_id="a1", note=letter * 900_000, weight=1.0, day=date(2026, 3, 1), seal=UUID(int=1))
        for letter in "xyz"
    ]

    async def run() -> None:
        async with App("bank", url=shared_url).connected() as app:
            await app.publish(*notes[:2])
        app = App("bank", url=shared_url)
        app.view(Profile)
        async with app:
            receipt = await app.publish(notes[2])
            assert [await app.get(Profile, "a1", after=receipt.position)] == expected(Profile, notes)

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------------- fingerprints


def prints(definitions: Iterable[ViewDefinition]) -> list[str]:
    return [registry.fingerprint(one, ("Paid",), (Paid,)) for one in definitions]


def test_a_fingerprint_follows_code_columns_and_version_and_nothing_else() -> None:
    def declared(bonus: int, **options: Any) -> ViewDefinition:
        class Sum(View, key="account_id", table="row", **options):
            account_id: str
            total: int = 0

            def evolve(self, event: Paid) -> Self:
                self.total += event.amount + bonus
                return self

        return analyse_view(Sum, {"Self": Self, "Paid": Paid})

    one, same, other = prints([declared(1), declared(1), declared(2)])
    assert one == same
    assert one != other, "evolve names another constant"
    fixed, fixed_too, raised = prints([declared(1, version=1), declared(2, version=1), declared(1, version=2)])
    assert fixed == fixed_too, "the version stands for the code"
    assert fixed != raised
    assert prints([declared(1, index=("total",))]) != [one]


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_the_statements_of_a_table_are_what_the_page_says(dialect: str) -> None:
    (statement,) = Table(analyse_view(Profile, {}), "profile__v1", dialect).creation()
    kinds = dict(
        line.strip().split(" ", 1)
        for line in statement[statement.index("(") + 1 : statement.index(", PRIMARY")].split(",")
    )
    wanted = {
        "sqlite": ("TEXT NOT NULL", "TEXT", "TEXT", "TEXT NOT NULL", "REAL NOT NULL", "INTEGER NOT NULL", "BLOB NOT NULL"),
        "postgresql": (
            "TEXT NOT NULL", "TIMESTAMPTZ", "NUMERIC", "JSONB NOT NULL", "DOUBLE PRECISION NOT NULL", "BOOLEAN NOT NULL",
            "BYTEA NOT NULL",
        ),
    }  # fmt: skip
    fields = ("account_id", "since", "limit", "notes", "weight", "heavy", "raw")
    assert tuple(kinds[f'"{field}"'] for field in fields) == wanted[dialect]
    assert statement.endswith("STRICT, WITHOUT ROWID") == (dialect == "sqlite")
