"""States: what they are made of, where from, and as of when."""

from __future__ import annotations

import asyncio
import enum
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

import msgspec
import pytest

from ensue import App, Command, Decided, Decider, Event, Query, Recorded, State, upcast
from ensue.domain import states as states_module
from ensue.domain.forms import form_of
from ensue.domain.states import Kept, Memory
from ensue.errors import DefinitionError, NotCaughtUp, WrongLog
from ensue.store.base import Page, Selection
from tests.domain.school import (
    Account,
    Balance,
    Course,
    CourseDefined,
    Deposit,
    Deposited,
    Enrol,
    StudentEnrolled,
    Transfer,
    Withdraw,
    Withdrawn,
    application,
    enrolment,
)
from tests.domain.test_deciding import counting

# ------------------------------------------------------------------------------------------------ what is remembered


def test_what_was_decided_is_remembered_so_that_the_next_decision_reads_nothing(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            await app.send(Deposit(account_id="a", amount=100))
            await app.send(Deposit(account_id="b", amount=100))
            await app.send(Transfer(source="a", target="b", amount=1))
            pages = counting(app.open_store())
            for _ in range(5):
                await app.send(Transfer(source="a", target="b", amount=1))
                # The same kind of state, looked at by another handler.
                await app.send(Withdraw(account_id="b", amount=1))
            assert not pages

    asyncio.run(run())


def test_states_that_are_read_together_are_read_at_one_position(shared_url: str) -> None:
    async def run() -> None:
        async with application(shared_url).connected() as app, application(shared_url).connected() as other:
            await app.send(Deposit(account_id="a", amount=10))
            states = app._open_engine().domain.states
            folding = states.folding(_fold(app))
            one, two = folding.keyed(("a",), {}), folding.keyed(("b",), {})
            for number in range(10):
                moved = asyncio.ensure_future(other.send(Transfer(source="a", target="b", amount=1)))
                loaded = await states.load(one, two, current=True)
                await moved
                assert sum(state.value.balance for state in loaded) == 10, number
                assert loaded[0].position == loaded[1].position

    asyncio.run(run())


def test_a_state_that_is_decided_on_while_another_one_is_read_is_read_again_with_it(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            await app.send(Deposit(account_id="a", amount=10))
            await app.send(Balance(account_id="b", amount=5))
            states, store = app._open_engine().domain.states, app.open_store()
            folding = states.folding(_fold(app))
            one, two = folding.keyed(("a",), {}), folding.keyed(("b",), {})
            read = store.read

            async def interrupted(selection: Selection = (), **options: Any) -> Page:
                page = await read(selection, **options)
                store.read = read  # type: ignore[method-assign]
                await app.send(Balance(account_id="b", amount=1))
                return page

            store.read = interrupted  # type: ignore[method-assign]
            loaded = await states.load(one, two, current=True)
            assert loaded[0].position == loaded[1].position
            assert [state.value.balance for state in loaded] == [10, 6]

    asyncio.run(run())


def _fold(app: App) -> Any:
    from ensue.domain.fold import fold_of

    return fold_of(Account, {})


def test_a_process_remembers_so_many_states_and_bytes_and_forgets_those_that_were_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(states_module, "REMEMBERED", 3)
    monkeypatch.setattr(states_module, "REMEMBERED_BYTES", 100)
    memory = Memory()
    keys: list[Any] = list("abcdef")
    for key in keys[:3]:
        memory.put(key, Kept(b"x" * 10, 1))
    assert memory.get("a") is not None  # type: ignore[arg-type]
    memory.put(keys[3], Kept(b"x" * 10, 1))
    assert memory.get("b") is None  # type: ignore[arg-type]
    assert memory.get("a") is not None  # type: ignore[arg-type]
    memory.put(keys[4], Kept(b"x" * 90, 1))
    assert (len(memory), memory.size) == (2, 100)
    memory.put(keys[5], Kept(b"x" * 1000, 1))
    assert (len(memory), memory.size) == (1, 1000)
    memory.put(keys[5], Kept(b"x" * 10, 2))
    memory.put(keys[5], Kept(b"x" * 20, 1))
    assert memory.get(keys[5]) == Kept(b"x" * 10, 2)
    memory.forget(keys[5])
    assert (len(memory), memory.size) == (0, 0)


def test_changing_a_state_that_was_given_changes_nothing_that_another_decision_sees(file_url: str) -> None:
    app = application(file_url)

    class Spoil(Command[int]):
        account_id: str

    @app.command
    def spoil(command: Spoil, account: Account) -> Decided[int]:
        before = account.balance
        account.balance = 999
        return Decided([] if before > 5 else Deposited(account_id=command.account_id, amount=1), result=before)

    async def run() -> None:
        async with app.connected():
            assert [(await app.send(Spoil(account_id="a"))).result for _ in range(8)] == [0, 1, 2, 3, 4, 5, 6, 6]

    asyncio.run(run())


# ------------------------------------------------------------------------------------------- forms that do not come back


class Counted(Event, key="shelf"):
    shelf: str
    name: str


class Count(Command[Counted]):
    shelf: str
    name: str


class Item(msgspec.Struct):
    name: str


class Book(Item):
    pages: int = 0


class Shelf(enum.Enum):
    LOW = "low"


@dataclass
class ByDefault:
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))


@dataclass
class OfBase:
    items: list[Item] = field(default_factory=lambda: [Book(name="b", pages=3)])


@dataclass
class OfAnything:
    counts: dict[str, Any] = field(default_factory=dict)


class Uneven(msgspec.Struct, eq=False):
    counts: dict[str, int] = msgspec.field(default_factory=dict)


@pytest.mark.parametrize(
    ("kinds", "value", "comes_back"),
    [
        ((Account,), Account(balance=3), True),
        ((Account,), Account(balance=1.0), False),  # type: ignore[arg-type]
        ((Account,), Account(balance=True), False),
        ((ByDefault,), ByDefault(), False),
        ((ByDefault,), ByDefault({"a": 1}), True),
        ((OfBase,), OfBase(), False),
        ((OfBase,), OfBase([Item(name="a")]), True),
        ((Uneven,), Uneven(), False),
        ((Item,), Book(name="a", pages=1), False),
        ((Item, Book), Book(name="a", pages=1), True),
        ((dict[str, int] | None,), None, False),
    ],
)
def test_only_what_comes_back_as_it_was_is_remembered(kinds: tuple[Any, ...], value: Any, comes_back: bool) -> None:
    form = form_of(kinds)
    data = form.encode(value) if form is not None else None
    assert (data is not None) is comes_back
    if form is not None and data is not None:
        back = form.decode(data)
        assert (back, type(back)) == (value, type(value))


def test_a_field_that_may_hold_anything_has_no_form() -> None:
    assert form_of((OfAnything,)) is None
    assert form_of(()) is None


@pytest.mark.parametrize("initial", [ByDefault, OfAnything, Uneven])
def test_a_state_that_cannot_be_remembered_is_read_each_time_and_right(
    file_url: str, initial: Callable[[], Any]
) -> None:
    def evolve(state: Any, event: Counted) -> Any:
        state.counts[event.name] = state.counts.get(event.name, 0) + 1
        return state

    def decide(state: Any, command: Count) -> Counted:
        return Counted(shelf=command.shelf, name=f"{command.name}{len(state.counts)}")

    app = App("shelves", url=file_url)
    app.include(Decider(key="shelf", initial=initial, evolve=evolve, decide=decide))

    async def run() -> None:
        async with app.connected():
            for _ in range(4):
                await app.send(Count(shelf="s", name="n"))
            events = [one.event.name async for one in app.log.read(Counted)]
            assert events == ["n0", "n1", "n2", "n3"]

    asyncio.run(run())


@dataclass(frozen=True)
class Closed:
    by: str = ""


@dataclass(frozen=True)
class Open:
    names: tuple[str, ...] = ()


class Named(Command[Counted]):
    shelf: str
    name: str


def test_states_of_several_classes_are_remembered_each_as_what_it_is(url: str) -> None:
    def evolve(state: Open | Closed, event: Counted) -> Open | Closed:
        if event.name == "close":
            return Closed(by=event.shelf)
        return Open((*state.names, event.name)) if isinstance(state, Open) else state

    seen: list[Any] = []

    def decide(state: Open | Closed, command: Named) -> list[Counted]:
        seen.append(state)
        return [Counted(shelf=command.shelf, name=command.name)]

    app = App("shelves", url=url)
    app.include(Decider(key="shelf", initial=Open, evolve=evolve, decide=decide))

    async def run() -> None:
        async with app.connected():
            for name in ("a", "close", "b"):
                await app.send(Named(shelf="s", name=name))

    asyncio.run(run())
    assert seen == [Open(), Open(("a",)), Closed("s")]


# ------------------------------------------------------------------------------------------------- which events are its


class Moved(Event, key="item_id", tags={"shelf": "shelf", "room": "place"}):
    item_id: str
    shelf: str
    room: str


class Lamp(Moved):
    watts: int = 0


class Corner(State, key={"shelf": "shelf", "where": "place"}):
    items: list[str] = []  # noqa: RUF012

    def evolve(self, event: Moved) -> Self:
        self.items.append(event.item_id)
        return self


class All(State):
    count: int = 0

    def evolve(self, event: Moved) -> Self:
        self.count += 1
        return self


class Everything(State, key="shelf"):
    names: list[str] = []  # noqa: RUF012

    def evolve(self, event: Event) -> Self:
        self.names.append(type(event).__name__)
        return self


class Look(Query[list[str]]):
    shelf: str
    where: str


class Put(Command[int]):
    shelf: str
    where: str
    item: str


def rooms(url: str) -> App:
    app = App("rooms", url=url)

    @app.command
    def put(command: Put, corner: Corner, all: All) -> Decided[int]:
        moved = Lamp(item_id=command.item, shelf=command.shelf, room=command.where, watts=5)
        return Decided([moved], result=len(corner.items) * 100 + all.count)

    return app


def test_a_key_of_several_tags_means_all_of_them_mapped_names_and_subclasses_count(url: str) -> None:
    async def run() -> None:
        async with rooms(url).connected() as app:
            await app.publish(
                Moved(item_id="1", shelf="s", room="r"),
                Lamp(item_id="2", shelf="s", room="r"),
                Lamp(item_id="3", shelf="s", room="other"),
                Moved(item_id="4", shelf="other", room="r"),
            )
            assert (await app.state(Corner, "s", "r")).items == ["1", "2"]
            assert (await app.state(Corner, where="r", shelf="s")).items == ["1", "2"]
            assert (await app.state(All)).count == 4
            assert [(await app.send(Put(shelf="s", where="r", item=str(at)))).result for at in range(3)] == [
                204,
                305,
                406,
            ]
            assert (await app.state(Corner, "s", "r")).items == ["1", "2", "0", "1", "2"]

    asyncio.run(run())


def test_whoever_evolves_every_event_reads_types_that_this_code_does_not_know(file_url: str) -> None:
    class Elsewhere(Event, key="thing", tags=("shelf",)):
        thing: str
        shelf: str

    async def run() -> None:
        async with rooms(file_url).connected() as app:
            await app.publish(Elsewhere(thing="t", shelf="s"))
        async with rooms(file_url).connected() as app:
            assert (await app.state(Everything, "s")).names == ["UnknownEvent"]
            assert (await app.state(Everything, "other")).names == []

    asyncio.run(run())


class PaidOut(Event, key="wallet"):
    wallet: str
    cents: int


class PaidBack(Event, key="wallet", was=("PaidOut",), version=2):
    wallet: str
    amount: Decimal


@upcast("PaidOut", version=1)
def to_amount(fields: dict[str, Any]) -> dict[str, Any]:
    return {"wallet": fields["wallet"], "amount": str(Decimal(fields["cents"]) / 100)}


class Wallet(State, key="wallet"):
    sum: Decimal = Decimal(0)

    def evolve(self, event: PaidBack) -> Self:
        self.sum += event.amount
        return self


class Settle(Command[Decimal]):
    wallet: str


def test_events_of_former_names_and_versions_are_its_events(shared_url: str) -> None:
    async def run() -> None:
        old, new = App("old", url=shared_url), App("new", url=shared_url)

        @new.command
        def settle(command: Settle, wallet: Wallet) -> Decided[Decimal]:
            return Decided(PaidBack(wallet=command.wallet, amount=Decimal(1)), result=wallet.sum)

        async with old.connected(), new.connected():
            await old.publish(PaidOut(wallet="w", cents=150))
            assert (await new.send(Settle(wallet="w"))).result == Decimal("1.5")
            await old.publish(PaidOut(wallet="w", cents=50))
            assert (await new.send(Settle(wallet="w"))).result == Decimal(3)

    asyncio.run(run())


class Times(State, key="account_id"):
    places: list[int] = []  # noqa: RUF012

    def evolve(self, event: Recorded[Deposited]) -> Self:
        self.places.append(event.position.last)
        return self


class Stamp(Command[list[int]]):
    account_id: str


def test_a_state_of_recorded_events_sees_where_they_are_also_its_own(url: str) -> None:
    app = application(url)

    @app.command
    def stamp(command: Stamp, times: Times) -> Decided[list[int]]:
        return Decided(Deposited(account_id=command.account_id, amount=1), result=list(times.places))

    async def run() -> None:
        async with app.connected():
            results = [(await app.send(Stamp(account_id="a"))).result for _ in range(3)]
            assert results == [[], [1], [1, 2]]

    asyncio.run(run())


# ---------------------------------------------------------------------------------------------------------- as of when


def test_a_state_is_given_as_of_any_version_position_or_time(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            receipts = []
            for amount in (5, 6, 7):
                receipts.append(await app.send(Deposit(account_id="a", amount=amount)))
                await app.send(Deposit(account_id="b", amount=1))
            now = await app.state(Account, "a")
            assert (now.balance, now.events) == (18, 3)
            assert [(await app.state(Account, "a", version=count)).balance for count in range(4)] == [0, 5, 11, 18]
            assert [(await app.state(Account, "a", at=one.position)).balance for one in receipts] == [5, 11, 18]
            assert [(await app.state(Account, "a", at=place)).balance for place in range(7)] == [
                0,
                5,
                5,
                11,
                11,
                18,
                18,
            ]
            times = [one.recorded_at async for one in app.log.read(Deposited)]
            assert (await app.state(Account, account_id="a", at=times[0])).balance == 0
            later = times[-1].replace(year=times[-1].year + 1)
            assert (await app.state(Account, "a", at=later)).balance == 18
            with pytest.raises(NotCaughtUp, match="has come to 6"):
                await app.state(Account, "a", at=7)
            with pytest.raises(ValueError, match="has 3 events"):
                await app.state(Account, "a", version=4)
            # It was remembered, and still is.
            assert (await app.send(Balance(account_id="a", amount=0))).result == 18

    asyncio.run(run())


def test_a_state_of_a_decider_is_given_by_its_criteria(url: str) -> None:
    from ensue import Criteria

    async def run() -> None:
        async with application(url).connected() as app:
            await app.publish(CourseDefined(course_id="c", places=3))
            await app.send(Enrol(course_id="c", student_id="s"))
            places = await app.state(enrolment, Criteria(course_id="c"))
            assert (places.places, places.enrolled) == (3, (("c", "s"),))
            assert (await app.state(Course, "c")).taken == 1
            assert (await app.state(enrolment, Criteria(StudentEnrolled, student_id="s"))).places == 0

    asyncio.run(run())


def test_what_a_state_is_asked_for_by_is_checked(file_url: str) -> None:
    async def run() -> None:
        async with application(file_url).connected() as app, application(f"{file_url}2").connected() as other:
            for wrong in ((), ("a", "b")):
                with pytest.raises(TypeError, match="Account is found by account_id"):
                    await app.state(Account, *wrong)
            with pytest.raises(TypeError, match="account_id"):
                await app.state(Account, "a", account_id="a")
            with pytest.raises(TypeError, match="other="):
                await app.state(Account, other="a")
            with pytest.raises(TypeError, match="either"):
                await app.state(Account, "a", at=1, version=1)
            with pytest.raises(ValueError, match="version"):
                await app.state(Account, "a", version=-1)
            position = (await other.publish(Deposited(account_id="a", amount=1))).position
            with pytest.raises(WrongLog):
                await app.state(Account, "a", at=position)

    asyncio.run(run())


def test_no_state_has_a_key_that_its_events_do_not_have(file_url: str) -> None:
    class Wrong(State, key="place"):
        def evolve(self, event: Deposited | Withdrawn) -> Self:
            return self

    async def run() -> None:
        async with application(file_url).connected() as app:
            with pytest.raises(DefinitionError, match="no such key or tag; it has: account_id"):
                await app.state(Wrong, "a")

    asyncio.run(run())
