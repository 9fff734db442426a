"""Middleware: what every command and every query passes, in which order, and what it can see and refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from contextvars import Context
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from ensue import Answer, App, Call, Command, Proceed, Query, Refusal, Service
from ensue.errors import Conflict, DefinitionError, WiringError
from tests.domain.desk import Account, BalanceOf, Deposit, Deposited, Overdrawn, Withdraw, Withdrawn, desk


class NotAllowed(Refusal):
    who: str | None


class Journal(msgspec.Struct):
    """What is noted by a middleware."""

    lines: list[str]


def test_calls_pass_middleware_in_the_order_of_registration_and_back(url: str) -> None:
    app, log = desk(url), list[str]()

    @app.middleware
    async def outer(call: Call[Any], proceed: Proceed) -> Answer:
        log.append(f"outer {type(call.message).__name__} to {call.handler}")
        answer = await proceed()
        log.append(f"outer: {answer.result}")
        return answer

    @app.middleware
    async def inner(call: Call[Any], proceed: Proceed) -> Answer:
        log.append("inner")
        return await proceed()

    async def run() -> None:
        async with app.connected():
            receipt = await app.send(Deposit(account_id="a1", amount=Decimal(5)))
            assert receipt.result == Deposited(account_id="a1", amount=Decimal(5))
            assert receipt.position.last == 1
            assert log == ["outer Deposit to deposit", "inner", f"outer: {receipt.result}"]
            log.clear()
            assert await app.ask(BalanceOf(account_id="a1")) == 5
            assert log == ["outer BalanceOf to balance", "inner", "outer: 5"]

    asyncio.run(run())


def test_authorisation_refuses_before_anything_is_read_or_stored(url: str) -> None:
    app, decided = App("desk", url=url), list[str]()

    @app.middleware
    async def authorise(call: Call[Any], proceed: Proceed) -> Answer:
        if call.principal != "clerk":
            raise NotAllowed(who=call.principal_id)
        return await proceed()

    @app.command
    def deposit(command: Deposit) -> Deposited:
        decided.append(command.account_id)
        return Deposited(account_id=command.account_id, amount=command.amount)

    @app.query
    def balance(query: BalanceOf, account: Account) -> Decimal:
        return account.balance

    async def run() -> None:
        async with app.connected():
            command, query = Deposit(account_id="a1", amount=Decimal(5)), BalanceOf(account_id="a1")
            for who in (None, "guest"):
                with pytest.raises(NotAllowed) as refused:
                    await app.send(command, principal=who, idempotency_key="k")
                assert refused.value.who == who
                with pytest.raises(NotAllowed):
                    await app.ask(query, principal=who)
            assert decided == []
            # A no of the middleware is no answer of the key: who asks with the right to has one.
            assert not (await app.send(command, principal="clerk", idempotency_key="k")).replayed
            assert await app.ask(query, principal="clerk") == 5

    asyncio.run(run())


def test_audit_sees_refusals_bugs_attempts_and_what_was_only_repeated(url: str) -> None:
    app, journal = desk(url), Journal([])

    @app.provide
    def made() -> Journal:
        return journal

    @app.middleware
    async def audit(call: Call[Any], proceed: Proceed, journal: Journal) -> Answer:
        try:
            answer = await proceed()
        except Exception as error:
            journal.lines.append(f"{call.principal_id}: {type(error).__name__} at attempt {call.attempt}")
            raise
        journal.lines.append(f"{call.principal_id}: {'again' if answer.replayed else 'done'} at {answer.position}")
        return answer

    async def run() -> None:
        async with app.connected():
            receipt = await app.send(Deposit(account_id="a1", amount=Decimal(5)), idempotency_key="k", principal="c1")
            await app.send(Deposit(account_id="a1", amount=Decimal(5)), idempotency_key="k", principal="c2")
            with pytest.raises(Overdrawn):
                await app.send(Withdraw(account_id="a1", amount=Decimal(50)), principal="c3")
            assert journal.lines == [
                f"c1: done at {receipt.position}",
                f"c2: again at {receipt.position}",
                "c3: Overdrawn at attempt 1",
            ]

    asyncio.run(run())


def test_a_service_has_its_own_behind_those_of_the_services_around_it(file_url: str) -> None:
    app, outer, inner, beside = App("app", url=file_url), Service("outer"), Service("inner"), Service("beside")
    found: list[str] = []

    def passing(service: Service, name: str) -> None:
        @service.middleware
        async def note(call: Call[Any], proceed: Proceed) -> Answer:
            found.append(name)
            return await proceed()

    outer.include(inner)
    app.include(outer, beside)
    for service in (inner, beside, outer, app):
        passing(service, service.name)

    @inner.command
    def deposit(command: Deposit) -> Deposited:
        return Deposited(account_id=command.account_id, amount=command.amount)

    @app.query
    def balance(query: BalanceOf, account: Account) -> Decimal:
        return account.balance

    async def run() -> None:
        async with app.connected():
            await app.send(Deposit(account_id="a1", amount=Decimal(5)))
            assert found == ["app", "outer", "inner"]
            found.clear()
            await app.ask(BalanceOf(account_id="a1"))
            assert found == ["app"]
            # By two ways into the application: what stands on either way is passed, each once.
            found.clear()
        beside.include(inner)
        async with app.connected():
            await app.send(Deposit(account_id="a1", amount=Decimal(5)))
            assert found == ["app", "outer", "inner", "beside"]

    asyncio.run(run())


def test_one_for_some_messages_alone_is_not_passed_by_others(file_url: str) -> None:
    app, log = desk(file_url), list[str]()

    @app.middleware
    async def money(call: Call[Withdraw | BalanceOf], proceed: Proceed) -> Answer:
        log.append(call.message.account_id)
        return await proceed()

    @app.middleware
    async def queries(call: Call[Query[Any]], proceed: Proceed) -> Answer:
        log.append("query")
        return await proceed()

    async def run() -> None:
        async with app.connected():
            await app.send(Deposit(account_id="a1", amount=Decimal(5)))
            assert log == []
            await app.send(Withdraw(account_id="a1", amount=Decimal(5)))
            await app.ask(BalanceOf(account_id="a2"))
            assert log == ["a1", "a2", "query"]

    asyncio.run(run())


def test_an_answer_may_be_another_for_a_query_and_for_a_command_only_where_one_was_stored(file_url: str) -> None:
    app = desk(file_url)

    @app.middleware
    async def hide(call: Call[BalanceOf], proceed: Proceed) -> Answer:
        return Answer(Decimal(0)) if call.principal is None else await proceed()

    @app.middleware
    async def lose(call: Call[Withdraw], proceed: Proceed) -> Answer:
        return Answer("nothing")

    async def run() -> None:
        async with app.connected():
            await app.send(Deposit(account_id="a1", amount=Decimal(5)))
            assert await app.ask(BalanceOf(account_id="a1")) == 0
            assert await app.ask(BalanceOf(account_id="a1"), principal="c1") == 5
            with pytest.raises(TypeError, match="returned an Answer without a position"):
                await app.send(Withdraw(account_id="a1", amount=Decimal(5)))

    asyncio.run(run())


def test_one_that_returns_no_answer_is_named(file_url: str) -> None:
    app: Any = desk(file_url)

    @app.middleware  # type: ignore[untyped-decorator]
    async def forget(call: Call[Any], proceed: Proceed):  # type: ignore[no-untyped-def]
        await proceed()

    async def run() -> None:
        async with app.connected():
            with pytest.raises(TypeError, match="forget returned a value of type NoneType; it returns what proceed"):
                await app.ask(BalanceOf(account_id="a1"))

    asyncio.run(run())


def test_one_may_proceed_again_and_the_command_begins_its_attempts_anew(file_url: str) -> None:
    app, other, attempts = App("desk", url=file_url), desk(file_url), list[int]()

    @app.middleware
    async def again(call: Call[Command[Any]], proceed: Proceed) -> Answer:
        try:
            return await proceed()
        except Conflict:
            return await proceed()

    @app.command(attempts=2)
    async def withdraw(command: Withdraw, account: Account, call: Call[Withdraw]) -> Withdrawn:
        attempts.append(call.attempt)
        if len(attempts) < 4:  # as somebody else would, who is not inside this handler
            sent = other.send(Deposit(account_id="a1", amount=Decimal(1)))
            await asyncio.get_running_loop().create_task(sent, context=Context())
        return Withdrawn(account_id=command.account_id, amount=command.amount)

    async def run() -> None:
        async with app.connected(), other.connected():
            assert (await app.send(Withdraw(account_id="a1", amount=Decimal(5)))).position.last == 4
            assert attempts == [1, 2, 1, 2]

    asyncio.run(run())


def test_a_stream_passes_middleware_once_and_a_watch_at_each_answer(file_url: str) -> None:
    class Amounts(Query[AsyncIterator[Decimal]]):
        account_id: str

    app, log = desk(file_url), list[str]()

    @app.query
    async def amounts(query: Amounts) -> AsyncIterator[Decimal]:
        yield Decimal(1)
        yield Decimal(2)

    @app.middleware
    async def note(call: Call[Query[Any]], proceed: Proceed) -> Answer:
        log.append(type(call.message).__name__)
        if call.principal == "guest" and len(log) > 3:
            raise NotAllowed(who="guest")
        return await proceed()

    async def run() -> None:
        async with app.connected():
            assert [one async for one in app.stream(Amounts(account_id="a1"))] == [1, 2]
            assert log == ["Amounts"]
            async with aclosing(app.watch(BalanceOf(account_id="a1"), principal="guest")) as answers:
                assert await anext(answers) == 0
                await app.send(Deposit(account_id="a1", amount=Decimal(5)))
                assert await anext(answers) == 5
                await app.send(Deposit(account_id="a1", amount=Decimal(5)))
                with pytest.raises(NotAllowed):  # it may see it no more
                    await anext(answers)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_what_it_needs_is_provided_or_told_as_missing(file_url: str) -> None:
    app = desk(file_url)

    @app.middleware
    async def audit(call: Call[Any], proceed: Proceed, journal: Journal) -> Answer:
        return await proceed()

    async def run() -> None:
        with pytest.raises(WiringError) as caught:
            async with app.connected():
                pass
        assert str(caught.value).count("the middleware audit needs journal: Journal, which nobody provides") == 1

    asyncio.run(run())


def without_a_call(proceed: Proceed) -> None: ...
async def a_call_alone(call: Call[Any]) -> Answer: ...  # type: ignore[empty-body]
async def not_annotated(call, proceed) -> Answer: ...  # type: ignore[no-untyped-def,empty-body]
async def of_an_event(call: Call[Deposited], proceed: Proceed) -> Answer: ...  # type: ignore[type-var,empty-body]
async def returning_text(call: Call[Any], proceed: Proceed) -> str: ...  # type: ignore[empty-body]
def plain(call: Call[Any], proceed: Proceed) -> Answer: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (without_a_call, "a middleware awaits what it goes on to"),
        (plain, "a middleware awaits what it goes on to"),
        (a_call_alone, "takes the call and what goes on with it"),
        (not_annotated, "takes the call and what goes on with it"),
        (of_an_event, "a call is one of a command or a query"),
        (returning_text, r"returns the answer that proceed\(\) gives"),
    ],
)
def test_what_is_no_middleware_is_refused_where_it_is_declared(function: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        App("desk").middleware(function)
