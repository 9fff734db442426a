"""What states, deciders and aggregates are told when they are declared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Self

import pytest

from ensue import App, Command, Criteria, Decided, Decider, Event, Of, Service, State, Transaction
from ensue.domain.answers import answer_of, check_answer, one_event_of
from ensue.errors import DefinitionError, InvalidEvent
from tests.domain.school import Account, Course, Deposited, Student, StudentEnrolled, Withdrawn


class Close(Command[Withdrawn]):
    account_id: str


class CloseAll(Command[list[Withdrawn]]):
    account_id: str


class Tell(Command[int]):
    account_id: str


class Maybe(Command[Withdrawn | None]):
    account_id: str


class Either(Command[Withdrawn | Deposited]):
    account_id: str


class Whatever(Command):
    account_id: str


class Silent(Command[None]):
    account_id: str


class Answering(Tell):
    more: int = 0


@pytest.mark.parametrize(
    ("command", "returned"),
    [
        (Close, Withdrawn),
        (Close, list[Withdrawn]),
        (Close, Sequence[Withdrawn]),
        (Close, Decided[Withdrawn]),
        (Close, Decided),
        (Close, Any),
        (CloseAll, list[Withdrawn]),
        (CloseAll, Sequence[Withdrawn]),
        (Tell, Decided[int]),
        (Answering, Decided[bool]),
        (Maybe, Withdrawn | None),
        (Maybe, Withdrawn),
        (Either, Withdrawn | Deposited),
        (Either, Deposited),
        (Either, list[Deposited]),
        (Whatever, Withdrawn | None),
        (Whatever, list[Event]),
        (Silent, None),
    ],
)
def test_a_handler_may_return_what_its_command_answers(command: type[Command[Any]], returned: Any) -> None:
    check_answer("close", command, returned)


@pytest.mark.parametrize(
    ("command", "returned", "told"),
    [
        (Close, Deposited, "close returns Deposited, and Close says that it answers Withdrawn"),
        (Close, list[Deposited], r"close returns list\[Deposited\]"),
        (Close, Withdrawn | None, r"close returns Withdrawn \| None"),
        (Close, Decided[int], r"close returns Decided\[int\]"),
        (CloseAll, Withdrawn, r"CloseAll says that it answers list\[Withdrawn\]"),
        (CloseAll, list[Deposited], r"list\[Deposited\]"),
        (Tell, Withdrawn, "Tell says that it answers int"),
        (Tell, Decided[str], r"Decided\[str\]"),
        (Answering, Decided[str], "Answering says that it answers int"),
        (Either, Event, "close returns Event"),
        (Silent, Withdrawn, "Silent says that it answers None"),
    ],
)
def test_a_handler_that_cannot_answer_its_command_is_refused_when_it_is_registered(
    command: type[Command[Any]], returned: Any, told: str
) -> None:
    with pytest.raises(DefinitionError, match=told):
        check_answer("close", command, returned)


def test_registering_checks_functions_deciders_and_methods() -> None:
    service = Service("closing")

    def close(command: Close, account: Account) -> Deposited:
        raise NotImplementedError

    def decide(account: Account, command: Close) -> list[Deposited]:
        raise NotImplementedError

    def evolve(account: Account, event: Deposited) -> Account:
        return account

    class Purse(State, key="account_id"):
        def evolve(self, event: Deposited) -> Self:
            return self

        def close(self, command: Close) -> Deposited:
            raise NotImplementedError

    with pytest.raises(DefinitionError, match="close returns Deposited, and Close"):
        service.command(close)
    with pytest.raises(DefinitionError, match=r"decide returns list\[Deposited\], and Close"):
        service.include(Decider(key="account_id", initial=Account, evolve=evolve, decide=decide))
    with pytest.raises(DefinitionError, match=r"Purse.close returns Deposited, and Close"):
        service.aggregate(Purse)


def test_what_a_command_answers_is_found_through_its_bases() -> None:
    assert [answer_of(one) for one in (Close, Tell, Answering, Whatever)] == [Withdrawn, int, int, Any]
    assert one_event_of(Either) == (Withdrawn, Deposited)
    assert [one_event_of(one) for one in (CloseAll, Maybe, Whatever, Tell)] == [(), (), (), ()]


# ---------------------------------------------------------------------------------------------------------- declarations


class Pay(Command[Withdrawn]):
    account_id: str
    amount: int


def wrongs() -> Iterator[tuple[str, Callable[[Service], object]]]:
    def none() -> None: ...

    def no_command(event: Deposited) -> Withdrawn: ...  # type: ignore[empty-body]

    def generator(command: Pay) -> Iterator[Withdrawn]:
        yield Withdrawn(account_id="a", amount=1)

    async def waits(command: Pay, tx: Transaction) -> Withdrawn: ...  # type: ignore[empty-body]

    def plain(command: Pay) -> Withdrawn: ...  # type: ignore[empty-body]

    def field(command: Pay, course: Course) -> Withdrawn: ...  # type: ignore[empty-body]

    def many(command: Pay, account: Annotated[Account, Of("account_id", "amount")]) -> Withdrawn: ...  # type: ignore[empty-body]

    yield "takes the command it decides", lambda service: service.command(none)  # type: ignore[type-var]
    yield "'event' is annotated with Deposited", lambda service: service.command(no_command)
    yield "a generator cannot decide", lambda service: service.command(generator)
    yield "`async def` cannot take a Transaction", lambda service: service.command(waits)
    yield "Pay has no field 'course_id'", lambda service: service.command(field)
    yield "names 2 fields, and Account is found by 1", lambda service: service.command(many)
    yield "attempts=0", lambda service: service.command(attempts=0)(plain)
    yield "name fields of the message", lambda service: Of()
    yield (
        "by its key or by criteria",
        lambda service: Decider(
            key="a",
            criteria=lambda command: Criteria(),
            initial=int,
            evolve=lambda one, event: one,
            decide=lambda one, command: [],
        ),
    )
    yield "none of its methods takes a command", lambda service: service.aggregate(Student)


@pytest.mark.parametrize(("told", "declare"), [pytest.param(*wrong, id=wrong[0]) for wrong in wrongs()])
def test_a_wrong_declaration_is_refused_with_what_to_write(told: str, declare: Callable[[Service], object]) -> None:
    with pytest.raises((DefinitionError, InvalidEvent), match=told):
        declare(Service("wrong"))


def test_two_handlers_of_one_command_are_refused(file_url: str) -> None:
    app = App("two", url=file_url)

    @app.command
    def one(command: Pay) -> Withdrawn: ...  # type: ignore[empty-body]

    @app.command
    def two(command: Pay) -> Withdrawn: ...  # type: ignore[empty-body]

    async def run() -> None:
        with pytest.raises(DefinitionError, match="Pay has two handlers, one and two"):
            async with app.connected():
                pass

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------------------ aggregates


class Lend(Command[StudentEnrolled]):
    course_id: str
    student_id: str


class Named(State):
    greeting: str = "hello"

    def greet(self, command: Tell) -> Decided[int]:
        return Decided([], result=len(self.greeting))


class Ledger(Named, key="account_id"):
    total: int = 0

    def evolve(self, event: Deposited | Withdrawn) -> Self:
        self.total += event.amount if isinstance(event, Deposited) else -event.amount
        return self

    @property
    def is_empty(self) -> bool:
        return not self.total

    def pay(self, command: Pay, student: Annotated[Student, Of("account_id")]) -> Withdrawn:
        assert not student.courses
        self.total = 1_000  # changes nothing but this decision's own
        return Withdrawn(account_id=command.account_id, amount=command.amount)

    async def close(self, command: Close) -> list[Withdrawn]:
        return [Withdrawn(account_id=command.account_id, amount=self.total)]


def test_methods_of_an_aggregate_decide_on_its_state_also_those_it_inherits(url: str) -> None:
    app = App("ledgers", url=url)
    assert app.aggregate(Ledger) is Ledger

    async def run() -> None:
        async with app.connected():
            await app.publish(Deposited(account_id="a", amount=10))
            assert (await app.send(Pay(account_id="a", amount=3))).result.amount == 3
            assert (await app.send(Pay(account_id="a", amount=3))).result.amount == 3
            assert (await app.send(Close(account_id="a"))).result == Withdrawn(account_id="a", amount=4)
            assert (await app.send(Tell(account_id="a"))).result == 5
            assert (await app.state(Ledger, "a")).is_empty

    asyncio.run(run())


# ---------------------------------------------------------------------------------------------------------------- criteria


class Book(Command[StudentEnrolled]):
    course_id: str
    student_id: str


def test_a_state_of_criteria_reads_what_matches_any_of_them_and_nothing_else(url: str) -> None:
    class Both(State):
        seen: tuple[str, ...] = ()

        def evolve(self, event: StudentEnrolled) -> Self:
            self.seen += (event.enrolment_id,)
            return self

    seen: list[tuple[str, ...]] = []
    app = App("books", url=url)

    def either(command: Book) -> Criteria:
        return Criteria(course_id=command.course_id) | Criteria(
            StudentEnrolled, Deposited, student_id=command.student_id
        )

    @app.command
    def book(command: Book, both: Annotated[Both, Of(either)]) -> StudentEnrolled:
        seen.append(both.seen)
        id = f"{command.course_id}{command.student_id}"
        return StudentEnrolled(enrolment_id=id, course_id=command.course_id, student_id=command.student_id)

    async def run() -> None:
        async with app.connected():
            for course, student in (("1", "a"), ("2", "b"), ("1", "b"), ("3", "c"), ("3", "a")):
                await app.send(Book(course_id=course, student_id=student))

    asyncio.run(run())
    assert seen == [(), (), ("1a", "2b"), (), ("1a", "3c")]


def test_criteria_that_match_nothing_that_the_state_reads_are_refused(file_url: str) -> None:
    app = App("books", url=file_url)

    @app.command
    def book(
        command: Book, student: Annotated[Student, Of(lambda command: Criteria(Deposited, account_id="a"))]
    ) -> StudentEnrolled:
        raise NotImplementedError

    async def run() -> None:
        async with app.connected():
            with pytest.raises(InvalidEvent, match="the criteria for Student match none of the events that it reads"):
                await app.send(Book(course_id="c", student_id="s"))

    asyncio.run(run())
