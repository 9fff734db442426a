"""Decisions that wait for one state are made together and stored as one, and nobody can tell but by the time it takes."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import pytest

from ensue import App, Command, Decided, Decider, Event, Receipt
from ensue.domain.turns import Turns
from ensue.errors import EnsueError, TryAgain, Unavailable, UnreadableEvent
from ensue.store.base import Request
from ensue.testing import AppSimulation, simulate
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
from tests.domain.test_deciding import recorded

CROWD = 40


def requests_of(app: App) -> list[Request]:
    """Every request that is written from now on."""
    store = app.open_store()
    write, seen = store.write, list[Request]()

    def watched(request: Request) -> asyncio.Future[Any]:
        seen.append(request)
        return write(request)

    store.write = watched  # type: ignore[method-assign]
    return seen


def test_those_who_wait_for_one_state_are_stored_in_few_requests_each_with_its_own_answer(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            await app.publish(Deposited(account_id="a", amount=30))
            requests = requests_of(app)
            sent = [app.send(Withdraw(account_id="a", amount=1)) for _ in range(CROWD)]
            answers = await asyncio.gather(*sent, return_exceptions=True)
            granted = [one for one in answers if not isinstance(one, BaseException)]
            assert len(granted) == 30
            assert [one.position.last for one in granted] == list(range(2, 32))
            assert all(one.position.first == one.position.last for one in granted)
            assert all(one.result == Withdrawn(account_id="a", amount=1) for one in granted)
            assert [type(one) for one in answers[30:]] == [Overdrawn] * (CROWD - 30)
            assert len([one for one in requests if one.events]) <= 4
            assert (await app.state(Account, "a")).balance == 0

    asyncio.run(run())


@pytest.mark.parametrize("command", [Enrol, Subscribe])
def test_boundaries_that_overlap_are_decided_together_and_no_limit_is_passed(
    url: str, command: type[Enrol] | type[Subscribe]
) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            await app.publish(*(CourseDefined(course_id=f"c{course}", places=5) for course in range(4)))
            sent = [
                app.send(command(course_id=f"c{course}", student_id=f"s{student}"))
                for student in range(10)
                for course in range(4)
            ]
            answers = await asyncio.gather(*sent, return_exceptions=True)
            assert not [one for one in answers if isinstance(one, BaseException) and not isinstance(one, Full)]
            enrolled = [event for event in await recorded(app, StudentEnrolled) if isinstance(event, StudentEnrolled)]
            counts: dict[str, int] = defaultdict(int)
            for event in enrolled:
                counts[event.course_id] += 1
                counts[event.student_id] += 1
            assert all(counts[f"c{course}"] <= 5 for course in range(4))
            assert all(counts[f"s{student}"] <= 3 for student in range(10))
            assert len(enrolled) == 20

    asyncio.run(run())


def test_what_others_store_meanwhile_makes_all_of_them_decide_anew(shared_url: str) -> None:
    async def run() -> None:
        async with application(shared_url).connected() as app, application(shared_url).connected() as other:
            await app.publish(Deposited(account_id="a", amount=20))
            crowds = [
                one.send(command)
                for one, command in itertools.product((app, other), [Withdraw(account_id="a", amount=1)] * CROWD)
            ]
            answers = await asyncio.gather(*crowds, return_exceptions=True)
            assert sum(not isinstance(one, BaseException) for one in answers) == 20
            assert sum(isinstance(one, Overdrawn) for one in answers) == 2 * CROWD - 20
            assert len(await recorded(app, Withdrawn)) == 20

    asyncio.run(run())


def test_where_they_cannot_be_stored_nobody_is_told_what_was_decided(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            await app.publish(Deposited(account_id="a", amount=5))
            store = app.open_store()
            write, broken = store.write, list[bool]()

            def failing(request: Request) -> asyncio.Future[Any]:
                if not request.events or len(request.events) == 1:
                    return write(request)
                broken.append(True)
                refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                refused.set_exception(Unavailable("the disk is away"))
                return refused

            store.write = failing  # type: ignore[method-assign]
            sent = [app.send(Withdraw(account_id="a", amount=1)) for _ in range(CROWD)]
            answers = await asyncio.gather(*sent, return_exceptions=True)
            store.write = write  # type: ignore[method-assign]
            assert broken
            stored = len(await recorded(app, Withdrawn))
            assert sum(not isinstance(one, BaseException) for one in answers) == stored
            assert not [one for one in answers if isinstance(one, Overdrawn)]
            assert (await app.send(Balance(account_id="a", amount=0))).result == 5 - stored

    asyncio.run(run())


def test_a_decision_that_fails_is_its_senders_trouble_alone(url: str) -> None:
    app = application(url)

    class Odd(Command[Deposited]):
        account_id: str
        amount: int

    @app.command
    def odd(command: Odd, account: Account) -> Deposited:
        if command.amount % 3 == 0:
            raise ZeroDivisionError(str(account.balance))
        amount: Any = "much" if command.amount % 3 == 1 else command.amount
        return Deposited(account_id=command.account_id, amount=amount)

    async def run() -> None:
        async with app.connected():
            sent = [app.send(Odd(account_id="a", amount=number)) for number in range(12)]
            answers = await asyncio.gather(*sent, return_exceptions=True)
            kinds = [type(one).__name__ for one in answers]
            assert kinds == ["ZeroDivisionError", "InvalidEvent", "Receipt"] * 4
            assert [event.amount for event in await recorded(app) if isinstance(event, Deposited)] == [2, 5, 8, 11]

    asyncio.run(run())


def test_a_state_that_cannot_be_read_is_no_trouble_of_those_who_do_not_look_at_it(file_url: str) -> None:
    class Broken(Event, key="account_id"):
        account_id: str

    app = application(file_url)

    async def run() -> None:
        async with app.connected():
            await app.publish(Deposited(account_id="a", amount=50))
            await app.open_store().rename("Deposited", ["Broken"])
            await app.publish(Broken(account_id="bad"))
            sent = [app.send(Transfer(source="a", target=f"b{number}", amount=1)) for number in range(5)]
            sent.append(app.send(Transfer(source="a", target="bad", amount=1)))
            sent += [app.send(Transfer(source="a", target=f"c{number}", amount=1)) for number in range(5)]
            answers = await asyncio.gather(*sent, return_exceptions=True)
            assert [number for number, one in enumerate(answers) if isinstance(one, UnreadableEvent)] == [5]
            assert sum(isinstance(one, BaseException) for one in answers) == 1

    asyncio.run(run())


@pytest.mark.parametrize("who", range(6))
def test_whoever_is_cancelled_takes_nobody_with_it(url: str, who: int) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            await app.publish(Deposited(account_id="a", amount=100))
            for steps in range(12):
                sent = [asyncio.ensure_future(app.send(Withdraw(account_id="a", amount=1))) for _ in range(6)]
                for _ in range(steps):
                    await asyncio.sleep(0)
                sent[who].cancel()
                answers = await asyncio.wait_for(asyncio.gather(*sent, return_exceptions=True), 20)
                wrong = [one for number, one in enumerate(answers) if number != who and isinstance(one, BaseException)]
                assert not wrong, wrong
            turns = app._open_engine().domain.commands._turns
            await app._open_engine().domain.commands.close()
            assert not len(turns)
            taken = len(await recorded(app, Withdrawn))
            assert (await app.state(Account, "a")).balance == 100 - taken

    asyncio.run(run())


sender: ContextVar[str] = ContextVar("sender", default="nobody")


def test_a_handler_runs_in_the_context_of_whoever_sent_its_command(file_url: str) -> None:
    app = application(file_url)

    class Say(Command[str]):
        account_id: str

    @app.command
    def say(command: Say, account: Account) -> Decided[str]:
        return Decided(Deposited(account_id=command.account_id, amount=1), result=sender.get())

    async def send(name: str) -> str:
        sender.set(name)
        return (await app.send(Say(account_id="a"))).result

    async def run() -> None:
        async with app.connected():
            names = [f"s{number}" for number in range(10)]
            assert await asyncio.gather(*map(send, names)) == names

    asyncio.run(run())


def test_decisions_are_made_in_the_order_in_which_they_were_sent_with_keys_among_them(file_url: str) -> None:
    async def run() -> None:
        async with application(file_url).connected() as app:
            sent = [
                app.send(Balance(account_id="a", amount=1), idempotency_key=f"k{number}" if number % 4 == 3 else None)
                for number in range(20)
            ]
            assert [one.result for one in await asyncio.gather(*sent)] == list(range(1, 21))

    asyncio.run(run())


def test_decisions_with_keys_are_stored_together_and_each_is_answered_again_by_its_own(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            await app.publish(Deposited(account_id="a", amount=12))
            requests = requests_of(app)

            async def crowd() -> list[Any]:
                return await asyncio.gather(
                    *(app.send(Withdraw(account_id="a", amount=1), idempotency_key=f"k{at}") for at in range(16)),
                    *(app.send(Balance(account_id="a", amount=0), idempotency_key=f"b{at}") for at in range(4)),
                    return_exceptions=True,
                )

            first = await crowd()
            assert [type(one) for one in first[12:16]] == [Overdrawn] * 4
            assert [one.position.last for one in first[:12]] == list(range(2, 14))
            assert [one.result for one in first[16:]] == [0] * 4
            assert len(requests) <= 6
            await app.send(Deposit(account_id="a", amount=100))
            for _ in range(2):
                again = await crowd()
                assert [type(one) for one in again[12:16]] == [Overdrawn] * 4
                assert all(one.available == 0 for one in again[12:16])
                assert [one.position for one in again[:12]] == [one.position for one in first[:12]]
                assert all(one.replayed for one in (*again[:12], *again[16:]))
                assert [one.result for one in again[16:]] == [0] * 4
            assert len(await recorded(app, Withdrawn)) == 12

    asyncio.run(run())


def test_one_key_that_is_sent_many_times_at_once_is_decided_once(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            await app.publish(Deposited(account_id="a", amount=100))
            sent = [app.send(Withdraw(account_id="a", amount=1), idempotency_key=f"k{at % 3}") for at in range(18)]
            # The first one has the turn; those behind it meet for the first time among those who are taken along.
            first, *answers = await asyncio.gather(app.send(Withdraw(account_id="a", amount=1)), *sent)
            assert len({one.position.last for one in answers}) == 3
            assert sum(one.replayed for one in answers) == 15
            assert len(await recorded(app, Withdrawn)) == 4
            assert not first.replayed

    asyncio.run(run())


def test_a_failure_among_those_who_decide_together_is_not_told_where_the_key_has_an_answer(url: str) -> None:
    app = application(url)

    class Once(Command[Deposited]):
        account_id: str

    @app.command
    def once(command: Once, account: Account) -> Deposited:
        if account.events:
            raise ZeroDivisionError("only once")
        return Deposited(account_id=command.account_id, amount=1)

    async def run() -> None:
        async with app.connected():
            await app.send(Once(account_id="a"), idempotency_key="k")
            sent = [
                app.send(Deposit(account_id="b", amount=1)),
                app.send(Once(account_id="a"), idempotency_key="other"),
                app.send(Balance(account_id="a", amount=1)),
                app.send(Once(account_id="a"), idempotency_key="k"),
                app.send(Balance(account_id="a", amount=1)),
            ]
            answers = await asyncio.gather(*sent, return_exceptions=True)
            assert [type(one).__name__ for one in answers] == ["Receipt", "ZeroDivisionError", *["Receipt"] * 3]
            assert isinstance(answers[3], Receipt)
            assert answers[3].replayed

    asyncio.run(run())


@dataclass
class Tally:
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def count(tally: Tally, event: Deposited) -> Tally:
    tally.counts[event.account_id] += 1
    return tally


class Number(Command[Deposited]):
    account_id: str


def number_of(tally: Tally, command: Number) -> list[Deposited]:
    return [Deposited(account_id=command.account_id, amount=tally.counts[command.account_id])]


def test_states_that_cannot_be_remembered_are_decided_on_one_by_one(file_url: str) -> None:
    app = App("tally", url=file_url)
    app.include(Decider(key="account_id", initial=Tally, evolve=count, decide=number_of))

    async def run() -> None:
        async with app.connected():
            answers = await asyncio.gather(*(app.send(Number(account_id="a")) for _ in range(8)))
            assert [one.result.amount for one in answers] == list(range(8))

    asyncio.run(run())


def test_one_state_under_two_names_is_two_values(file_url: str) -> None:
    async def run() -> None:
        async with application(file_url).connected() as app:
            await app.publish(Deposited(account_id="a", amount=5))
            sent = [app.send(Transfer(source="a", target="a", amount=5)) for _ in range(6)]
            await asyncio.gather(*sent)
            assert (await app.state(Account, "a")).balance == 5

    asyncio.run(run())


@simulate(application("memory:"), crashes="everywhere", runs=60)
async def test_money_is_neither_made_nor_lost_by_decisions_that_are_made_together(sim: AppSimulation) -> None:
    await sim.app.publish(Deposited(account_id="a", amount=6), Deposited(account_id="b", amount=6))

    async def crowd(app: App) -> list[Any]:
        pairs = (("a", "b"), ("b", "a"), ("a", "b"), ("a", "c"), ("a", "b"), ("b", "c"), ("a", "c"))
        sent = [
            app.send(Transfer(source=source, target=target, amount=2), idempotency_key=f"k{at}" if at % 2 else None)
            for at, (source, target) in enumerate(pairs)
        ]
        return await asyncio.gather(*sent, return_exceptions=True)

    for _ in range(2):
        try:
            answers = await sim.inside(crowd)
        except TryAgain:
            continue
        unknown = [
            one for one in answers if isinstance(one, BaseException) and not isinstance(one, Overdrawn | EnsueError)
        ]
        assert not unknown, unknown

    async def balances(app: App) -> list[int]:
        return [(await app.state(Account, name)).balance for name in "abc"]

    found = await sim.inside(balances)
    assert sum(found) == 12
    assert min(found) >= 0


# ----------------------------------------------------------------------------------------------------------------- turns


def test_turns_come_in_the_order_of_asking_and_end_with_nothing_held() -> None:
    async def run() -> None:
        turns: Turns[str] = Turns()
        order: list[str] = []

        async def work(name: str, *keys: str) -> None:
            assert not await turns.take(keys)
            order.append(name)
            await asyncio.sleep(0)
            turns.give(keys)

        await asyncio.gather(work("1", "a"), work("2", "a", "b"), work("3", "b"), work("4", "a"), work("5", "a", "b"))
        assert order == ["1", "3", "2", "4", "5"]
        assert not len(turns)

    asyncio.run(run())


def test_those_are_taken_along_who_wait_for_nothing_that_somebody_else_has() -> None:
    async def run() -> None:
        turns: Turns[str] = Turns()
        await turns.take(["c"])
        await turns.take(["z"])
        waiting = [
            asyncio.ensure_future(turns.take(keys, job))
            for keys, job in (
                (["a", "c"], "one"),
                (["c", "s"], "two"),
                (["c", "s"], "three"),
                (["c", "z"], "four"),
                (["c"], "five"),
            )
        ]
        await asyncio.sleep(0)
        jobs, more = turns.take_along(["c"], 10)
        assert (jobs, sorted(map(str, more))) == (["one", "two", "three"], ["a", "s"])
        turns.give(["c", *more])
        await asyncio.sleep(0)
        turns.give(["z"])
        assert await asyncio.gather(*waiting[:4]) == [True, True, True, False]
        turns.give(["c", "z"])
        assert not await waiting[4]
        turns.give(["c"])
        assert not len(turns)

    asyncio.run(run())
