"""Deciding: what `send` stores, answers and refuses, and what it does not when others decide at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ensue import App, Command, Decided, Event, State
from ensue.errors import Conflict, IdempotencyKeyReused, InvalidEvent, UnreadableEvent
from ensue.events.stored import Row
from ensue.store.base import Page, Selection, Store
from tests.domain.school import (
    Account,
    Balance,
    CourseDefined,
    Deposit,
    Deposited,
    Enrol,
    Full,
    Overdrawn,
    StudentEnrolled,
    Subscribe,
    Transfer,
    Withdraw,
    Withdrawn,
    application,
)

RACERS = 24


async def recorded(app: App, *types: type[Event]) -> list[Event]:
    return [one.event async for one in app.log.read(*types)]


def counting(store: Store) -> list[list[Row]]:
    """Every page that is read from now on."""
    pages: list[list[Row]] = []
    read = store.read

    async def counted(selection: Selection = (), **options: Any) -> Page:
        page = await read(selection, **options)
        pages.append(page.rows)
        return page

    store.read = counted  # type: ignore[method-assign]
    return pages


# ---------------------------------------------------------------------------------------------------------- answers


def test_the_answer_is_the_event_that_was_stored_and_a_refusal_stores_nothing(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            await app.send(Deposit(account_id="a", amount=10))
            receipt = await app.send(Withdraw(account_id="a", amount=4))
            assert receipt.result == Withdrawn(account_id="a", amount=4)
            with pytest.raises(Overdrawn) as refused:
                await app.send(Withdraw(account_id="a", amount=7))
            assert refused.value.available == 6
            assert len(await recorded(app)) == 2

    asyncio.run(run())


def test_a_decision_over_two_states_is_stored_as_one(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            await app.send(Deposit(account_id="a", amount=10))
            receipt = await app.send(Transfer(source="a", target="b", amount=3))
            assert receipt.position.last == receipt.position.first + 1
            assert (await app.send(Balance(account_id="b", amount=0))).result == 3

    asyncio.run(run())


def test_one_event_in_a_list_is_the_answer_of_a_command_that_answers_one_event_and_again_for_its_key(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            await app.publish(CourseDefined(course_id="c", places=1))
            for replayed in (False, True):
                receipt = await app.send(Subscribe(course_id="c", student_id="s"), idempotency_key="k")
                assert isinstance(receipt.result, StudentEnrolled)
                assert receipt.replayed is replayed

    asyncio.run(run())


class Nothing(Command[Deposited]):
    account_id: str


class Many(Command[Deposited]):
    account_id: str


def test_a_decider_that_returns_none_or_several_where_one_event_is_the_answer_is_told_so(file_url: str) -> None:
    app = application(file_url)

    @app.command
    def nothing(command: Nothing) -> Sequence[Deposited]:
        return []

    @app.command
    def many(command: Many) -> list[Deposited]:
        return [Deposited(account_id=command.account_id, amount=one) for one in (1, 2)]

    async def run() -> None:
        async with app.connected():
            with pytest.raises(TypeError, match="Nothing says that it answers one Deposited"):
                await app.send(Nothing(account_id="a"))
            with pytest.raises(TypeError, match=r"\['Deposited', 'Deposited'\]"):
                await app.send(Many(account_id="a"))
            assert not await recorded(app)

    asyncio.run(run())


def test_an_answer_without_events_is_given_from_states_as_they_are_now(shared_url: str) -> None:
    async def run() -> None:
        async with application(shared_url).connected() as app, application(shared_url).connected() as other:
            await app.send(Deposit(account_id="a", amount=1))
            assert (await app.send(Balance(account_id="a", amount=0))).result == 1
            await other.send(Deposit(account_id="a", amount=5))
            receipt = await app.send(Balance(account_id="a", amount=0))
            assert receipt.result == 6
            assert receipt.position.last == 2

    asyncio.run(run())


def test_a_no_is_never_said_from_what_is_only_remembered(shared_url: str) -> None:
    async def run() -> None:
        async with application(shared_url).connected() as app, application(shared_url).connected() as other:
            with pytest.raises(Overdrawn):
                await app.send(Withdraw(account_id="a", amount=1))
            await other.send(Deposit(account_id="a", amount=1))
            await app.send(Withdraw(account_id="a", amount=1))
            with pytest.raises(Overdrawn):
                await other.send(Withdraw(account_id="a", amount=1))

    asyncio.run(run())


# ---------------------------------------------------------------------------------------------------------- conflicts


def interrupting(app: App, function: Callable[[], Any], kind: type[Event], times: int = 1) -> None:
    """Before the first request that appends an event of this type, `function` is awaited: between reading and appending."""
    store = app.open_store()
    room = store.room
    left = [times]

    async def interrupted() -> None:
        if left[0]:
            left[0] -= 1
            await function()
        await room()

    store.room = interrupted  # type: ignore[method-assign]


def test_an_event_that_comes_between_reading_and_appending_is_a_conflict_and_only_it_is_read_again(
    shared_url: str,
) -> None:
    async def run() -> None:
        async with application(shared_url).connected() as app, application(shared_url).connected() as other:
            for _ in range(50):
                await other.send(Deposit(account_id="a", amount=1))
            pages = counting(app.open_store())
            interrupting(app, lambda: other.send(Withdraw(account_id="a", amount=50)), Withdrawn)
            with pytest.raises(Overdrawn):
                await app.send(Withdraw(account_id="a", amount=10))
            assert [len(page) for page in pages] == [50, 1]

    asyncio.run(run())


def test_events_of_other_types_with_the_same_tag_are_no_conflict(shared_url: str) -> None:
    class Renamed(Event, key="account_id"):
        account_id: str

    async def run() -> None:
        async with application(shared_url).connected() as app, application(shared_url).connected() as other:
            await app.send(Deposit(account_id="a", amount=9))
            pages = counting(app.open_store())
            interrupting(app, lambda: other.publish(Renamed(account_id="a")), Withdrawn)
            await app.send(Withdraw(account_id="a", amount=1))
            assert len(pages) == 1

    asyncio.run(run())


def test_a_decision_that_meets_others_at_every_attempt_is_a_conflict(file_url: str) -> None:
    calls: list[int] = []
    app = application(file_url)

    class Drain(Command[object]):
        account_id: str

    @app.command(attempts=3)
    def drain(command: Drain, account: Account) -> Withdrawn:
        calls.append(account.balance)
        return Withdrawn(account_id=command.account_id, amount=1)

    async def run() -> None:
        async with app.connected(), application(file_url).connected() as other:
            interrupting(app, lambda: other.publish(Deposited(account_id="a", amount=1)), Withdrawn, times=9)
            with pytest.raises(Conflict):
                await app.send(Drain(account_id="a"))
            assert calls == [0, 1, 2]
            assert len(await recorded(app, Withdrawn)) == 0

    asyncio.run(run())


def test_of_many_who_want_the_last_place_one_gets_it_in_one_process(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            await app.publish(CourseDefined(course_id="c", places=1))
            sent = [app.send(Enrol(course_id="c", student_id=f"s{number}")) for number in range(RACERS)]
            answers = await asyncio.gather(*sent, return_exceptions=True)
            assert sum(not isinstance(one, BaseException) for one in answers) == 1
            assert sum(isinstance(one, Full) for one in answers) == RACERS - 1
            assert len(await recorded(app, StudentEnrolled)) == 1

    asyncio.run(run())


@pytest.mark.parametrize("command", [Enrol, Subscribe])
def test_no_limit_is_passed_by_applications_that_decide_at_once(
    shared_url: str, command: type[Enrol] | type[Subscribe]
) -> None:
    async def run() -> None:
        async with (
            application(shared_url).connected() as one,
            application(shared_url).connected() as two,
            application(shared_url).connected() as three,
        ):
            await one.publish(*(CourseDefined(course_id=f"c{number}", places=2) for number in range(5)))
            sent = [
                app.send(command(course_id=f"c{course}", student_id=f"s{student}"))
                for course in range(5)
                for student in range(4)
                for app in (one, two, three)
            ]
            answers = await asyncio.gather(*sent, return_exceptions=True)
            errors = [one for one in answers if isinstance(one, BaseException) and not isinstance(one, Full)]
            assert not errors
            enrolled = await recorded(one, StudentEnrolled)
            for number in range(5):
                courses = [event for event in enrolled if isinstance(event, StudentEnrolled)]
                assert sum(event.course_id == f"c{number}" for event in courses) == 2
                assert sum(event.student_id == f"s{number}" for event in courses) <= 3

    asyncio.run(run())


def test_a_waiter_that_is_cancelled_keeps_nobody_waiting(file_url: str) -> None:
    async def run() -> None:
        async with application(file_url).connected() as app:
            await app.send(Deposit(account_id="a", amount=100))
            for number in range(1, 20):
                sent: list[asyncio.Future[Any]] = [
                    asyncio.ensure_future(app.send(Withdraw(account_id="a", amount=1))),
                    asyncio.ensure_future(app.send(Transfer(source="a", target="b", amount=1))),
                    asyncio.ensure_future(app.send(Transfer(source="b", target="a", amount=0))),
                ]
                for _ in range(number):
                    await asyncio.sleep(0)
                sent[number % 3].cancel()
                await asyncio.gather(*sent, return_exceptions=True)
            assert (await asyncio.wait_for(app.send(Balance(account_id="a", amount=0)), 10)).result > 0
            assert not app._open_engine().domain.commands._turns

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------------- repetitions


def test_the_same_key_has_the_first_answer_also_where_the_handler_would_now_refuse_or_fail(url: str) -> None:
    app = application(url)
    broken: list[bool] = []

    class Close(Command[Withdrawn]):
        account_id: str

    @app.command
    def close(command: Close, account: Account) -> Withdrawn:
        if not account.balance:
            raise ZeroDivisionError("it is closed")
        if broken:
            raise ZeroDivisionError("a bug")
        return Withdrawn(account_id=command.account_id, amount=account.balance)

    async def run() -> None:
        async with app.connected():
            await app.send(Deposit(account_id="a", amount=10))
            first = await app.send(Close(account_id="a"), idempotency_key="close")
            again = await app.send(Close(account_id="a"), idempotency_key="close")
            assert (again.result, again.position, again.replayed) == (first.result, first.position, True)
            await app.send(Deposit(account_id="a", amount=10))
            with pytest.raises(IdempotencyKeyReused):
                await app.send(Close(account_id="b"), idempotency_key="close")
            broken.append(True)
            with pytest.raises(ZeroDivisionError, match="a bug"):
                await app.send(Close(account_id="a"), idempotency_key="another")
            broken.clear()
            assert not (await app.send(Close(account_id="a"), idempotency_key="another")).replayed

    asyncio.run(run())


def test_a_refusal_is_the_first_answer_too(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            for _ in range(2):
                with pytest.raises(Overdrawn) as refused:
                    await app.send(Withdraw(account_id="a", amount=5), idempotency_key="k")
                assert refused.value.available == 0
                await app.send(Deposit(account_id="a", amount=10))
            assert len(await recorded(app)) == 2

    asyncio.run(run())


def test_a_result_of_its_own_comes_again_with_its_type(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            for _ in range(2):
                receipt = await app.send(Balance(account_id="a", amount=7), idempotency_key="k")
                assert receipt.result == 7
            assert len(await recorded(app)) == 1

    asyncio.run(run())


# --------------------------------------------------------------------------------------------------- what cannot follow


class Odd(Event, key="account_id"):
    account_id: str
    amount: int


class Even(State, key="account_id"):
    total: int = 0

    def evolve(self, event: Odd) -> Even:
        if event.amount % 2:
            raise ValueError("odd")
        self.total += event.amount
        return self


class Add(Command[int]):
    account_id: str
    amount: int


def test_an_event_that_its_state_cannot_follow_is_not_stored_and_one_that_is_there_is_named(url: str) -> None:
    app = App("even", url=url)

    @app.command
    def add(command: Add, even: Even) -> Decided[Any]:
        return Decided(Odd(account_id=command.account_id, amount=command.amount), result=even.total)

    async def run() -> None:
        async with app.connected():
            await app.send(Add(account_id="a", amount=2))
            with pytest.raises(InvalidEvent, match=r"Even cannot follow Odd\(.*evolve raised ValueError: odd"):
                await app.send(Add(account_id="a", amount=3))
            assert len(await recorded(app)) == 1
            await app.publish(Odd(account_id="a", amount=3))
            with pytest.raises(UnreadableEvent, match="Even cannot follow the Odd at position 2: evolve raised"):
                await app.send(Add(account_id="a", amount=2))

    asyncio.run(run())
