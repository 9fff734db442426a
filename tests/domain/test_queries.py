"""Queries: answered by one handler, from states as they are now, from rows in one snapshot, and as streams; after a write."""

from __future__ import annotations

import asyncio
import threading
from collections import abc
from collections.abc import AsyncIterator
from contextlib import aclosing
from contextvars import ContextVar
from decimal import Decimal
from typing import Any, LiteralString

import msgspec
import pytest

from ensue import App, Call, Criteria, Position, Query, Service, Transaction, seconds
from ensue.errors import (
    DefinitionError,
    HandlerFailed,
    InsideHandler,
    MissingCapability,
    Misuse,
    NotCaughtUp,
    Unavailable,
    WrongLog,
)
from tests.domain.desk import Account, BalanceOf, Deposit, Deposited, Withdraw, desk
from tests.servers.pgbouncer import Pooler
from tests.servers.postgresql import PostgresAddress, new_role


class Line(msgspec.Struct):
    account_id: str
    amount: Decimal


class Lines(Query[list[Line]]):
    account_id: str


class Each(Query[AsyncIterator[Decimal]]):
    account_id: str


class Unanswered(Query[int]): ...


def with_rows(url: str, name: str = "desk") -> App:
    """The desk, with a table of deposits that a handler keeps, and a query that reads it."""
    app = desk(url, name)

    @app.on
    def keep(event: Deposited, tx: Transaction) -> None:
        tx.execute("CREATE TABLE IF NOT EXISTS line (account_id TEXT, amount TEXT)")
        if event.amount == 13:
            raise ValueError("unlucky")
        tx.execute("INSERT INTO line VALUES (?, ?)", event.account_id, str(event.amount))

    @app.query
    def lines(query: Lines, tx: Transaction) -> list[Line]:
        return tx.rows(Line, "SELECT account_id, amount FROM line WHERE account_id = ?", query.account_id)

    return app


# -------------------------------------------------------------------------------------------------------------- rows


def test_rows_are_there_after_the_write_whose_position_is_given(shared_url: str) -> None:
    async def run() -> None:
        app = with_rows(shared_url)
        async with app:
            for number in range(1, 6):
                receipt = await app.send(Deposit(account_id="a1", amount=Decimal(number)))
                lines = await app.ask(Lines(account_id="a1"), after=receipt.position)
                assert [line.amount for line in lines] == [Decimal(one) for one in range(1, number + 1)]

    asyncio.run(asyncio.wait_for(run(), 60))


def test_rows_are_there_after_a_write_also_where_another_application_keeps_them(shared_url: str) -> None:
    async def run() -> None:
        keeping, asking = with_rows(shared_url), with_rows(shared_url)
        async with keeping, asking.connected():
            receipt = await asking.send(Deposit(account_id="a1", amount=Decimal(1)))
            token = Position(str(receipt.position))
            assert len(await asking.ask(Lines(account_id="a1"), after=token)) == 1

    asyncio.run(asyncio.wait_for(run(), 60))


def test_all_statements_of_a_query_see_one_moment(shared_url: str) -> None:
    app, other = with_rows(shared_url), with_rows(shared_url)

    class Twice(Query[tuple[int, int]]): ...

    between = threading.Event()
    written = threading.Event()

    @app.query
    def twice(query: Twice, tx: Transaction) -> tuple[int, int]:
        (first,) = tx.rows(int, "SELECT count(*) FROM line")
        between.set()
        assert written.wait(30)
        (second,) = tx.rows(int, "SELECT count(*) FROM line")
        return first, second

    def write() -> None:
        async def more() -> None:
            async with other.connected():
                await other.transact(lambda tx: tx.execute("INSERT INTO line VALUES ('a2', '1')"))

        assert between.wait(30)
        asyncio.run(more())
        written.set()

    async def run() -> None:
        async with app:
            await (await app.send(Deposit(account_id="a1", amount=Decimal(1)))).wait()
            thread = threading.Thread(target=write)
            thread.start()
            assert await app.ask(Twice()) in ((1, 1), (2, 2))
            thread.join()
            assert app.sql("SELECT count(*) FROM line") == [(2,)]

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO line VALUES ('a9', '1')",
        "CREATE TABLE mine (id TEXT)",
        "DELETE FROM ensue_event",
        "DROP TABLE line",
        "COMMIT",
    ],
)
def test_a_query_that_would_write_is_refused_and_writes_nothing(shared_url: str, statement: LiteralString) -> None:
    app = with_rows(shared_url)

    class Write(Query[None]): ...

    @app.query
    def write(query: Write, tx: Transaction) -> None:
        tx.execute(statement)

    async def run() -> None:
        async with app:
            await (await app.send(Deposit(account_id="a1", amount=Decimal(1)))).wait()
            with pytest.raises(Misuse):
                await app.ask(Write())
            assert len(await app.ask(Lines(account_id="a1"))) == 1
            assert app.sql("SELECT count(*) FROM line") == [(1,)]

    asyncio.run(asyncio.wait_for(run(), 60))


def test_what_a_query_emits_is_refused(file_url: str) -> None:
    app = with_rows(file_url)

    class Emit(Query[None]): ...

    @app.query
    def emit(query: Emit, tx: Transaction) -> None:
        tx.emit(Deposited(account_id="a1", amount=Decimal(1)))

    async def run() -> None:
        async with app.connected():
            with pytest.raises(Misuse, match="emit: a query only reads"):
                await app.ask(Emit())

    asyncio.run(run())


def test_a_query_on_a_server_does_not_hold_the_loop_and_many_take_turns(postgresql_url: str) -> None:
    app = App("desk", url=postgresql_url)

    class Slow(Query[int]): ...

    @app.query
    def slow(query: Slow, tx: Transaction) -> int:
        tx.execute("SELECT pg_sleep(0.2)")
        return threading.get_ident()

    async def run() -> None:
        async with app.connected():
            turns = 0

            async def tick() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            ticking = asyncio.get_running_loop().create_task(tick())
            threads = await asyncio.gather(*(app.ask(Slow()) for _ in range(10)))
            ticking.cancel()
            assert threading.get_ident() not in threads
            assert 1 < len(set(threads)) <= 4
            assert turns > 100

    asyncio.run(asyncio.wait_for(run(), 60))


def test_queries_are_answered_through_a_pooler(pooler: Pooler, postgresql: PostgresAddress) -> None:
    async def run() -> None:
        app = with_rows(pooler.pooled(new_role(postgresql.url())))
        async with app:
            receipt = await app.send(Deposit(account_id="a1", amount=Decimal(1)))
            await app.ask(Lines(account_id="a1"), after=receipt.position)
            for _ in range(10):  # more often than it takes until a driver prepares a statement
                found = await asyncio.gather(*(app.ask(Lines(account_id="a1")) for _ in range(8)))
                assert [len(lines) for lines in found] == [1] * 8

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_query_is_answered_in_the_context_of_who_asks(shared_url: str) -> None:
    seen, app = ContextVar[str]("seen"), App("desk", url=shared_url)

    class Seen(Query[str]): ...

    @app.query
    def what(query: Seen, tx: Transaction) -> str:
        tx.execute("SELECT 1")
        return seen.get()

    async def run() -> None:
        async with app.connected():
            seen.set("mine")
            assert await app.ask(Seen()) == "mine"

    asyncio.run(run())


def test_a_query_is_answered_after_its_connection_was_cut(postgresql_url: str) -> None:
    app = App("desk", url=postgresql_url)

    class Who(Query[int]): ...

    @app.query
    def who(query: Who, tx: Transaction) -> int:
        return tx.rows(int, "SELECT pg_backend_pid()")[0]

    async def run() -> None:
        async with app.connected():
            first = await app.ask(Who())
            assert await app.ask(Who()) == first
            assert app.sql("SELECT pg_terminate_backend(?)", first) == [(True,)]
            second = await app.ask(Who())
            assert second != first
            assert await app.ask(Who()) == second

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_caller_that_is_cancelled_leaves_its_turn_to_others(postgresql_url: str) -> None:
    app = App("desk", url=postgresql_url)

    class Slow(Query[None]): ...

    @app.query
    def slow(query: Slow, tx: Transaction) -> None:
        tx.execute("SELECT pg_sleep(0.1)")

    async def run() -> None:
        async with app.connected():
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.gather(*(app.ask(Slow()) for _ in range(8))), 0.05)
            await asyncio.wait_for(app.ask(Slow()), 30)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_rows_need_sql_and_are_told_at_the_opening() -> None:
    app = App("desk", url="memory:")

    @app.query
    def lines(query: Lines, tx: Transaction) -> list[Line]:
        return []

    async def run() -> None:
        for opened in (app, app.connected()):
            with pytest.raises(MissingCapability, match=r"MemoryStore.*is taken by lines"):
                async with opened:
                    pass

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------------------ waiting


def test_states_are_current_without_waiting_also_after_a_token_of_another_process(shared_url: str) -> None:
    async def run() -> None:
        app, other = desk(shared_url), desk(shared_url)
        async with app.connected(), other.connected():
            assert await app.ask(BalanceOf(account_id="a1")) == 0
            for number in range(1, 4):
                receipt = await other.send(Deposit(account_id="a1", amount=Decimal(1)))
                assert await app.ask(BalanceOf(account_id="a1")) == number
                assert await app.ask(BalanceOf(account_id="a1"), after=receipt.position) == number

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_token_that_never_comes_is_told_at_the_deadline(url: str) -> None:
    async def run() -> None:
        app = desk(url)
        async with app.connected():
            receipt = await app.send(Deposit(account_id="a1", amount=Decimal(1)))
            never = Position.of(receipt.position.log_id, 8, 9)
            with pytest.raises(NotCaughtUp, match=r"is not written yet; the log has come to 1"):
                await app.ask(BalanceOf(account_id="a1"), after=never, timeout=seconds(0.05))
            with pytest.raises(NotCaughtUp):
                [row async for row in app.watch(BalanceOf(account_id="a1"), after=never, timeout=seconds(0.05))]

    asyncio.run(run())


def test_rows_that_nobody_keeps_are_told_at_the_deadline_with_who_should(file_url: str) -> None:
    async def run() -> None:
        app = with_rows(file_url)
        async with app.connected():
            receipt = await app.send(Deposit(account_id="a1", amount=Decimal(1)))
            with pytest.raises(NotCaughtUp, match=r"the event at position 1 is not done by keep"):
                await app.ask(Lines(account_id="a1"), after=receipt.position, timeout=seconds(0.2))

    asyncio.run(run())


def test_rows_that_cannot_be_kept_are_told_at_once_with_the_dead_letter(file_url: str) -> None:
    app = with_rows(file_url)

    async def run() -> None:
        async with app:
            await (await app.send(Deposit(account_id="a1", amount=Decimal(1)))).wait()
            receipt = await app.send(Deposit(account_id="a1", amount=Decimal(13)))
            with pytest.raises(HandlerFailed) as failed:
                await app.ask(Lines(account_id="a1"), after=receipt.position, timeout=seconds(60))
            assert failed.value.dead_letter is not None
            assert "unlucky" in str(failed.value)

    from ensue import Retry

    app._retry = Retry.never
    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_token_of_another_log_is_refused(url: str) -> None:
    async def run() -> None:
        app = desk(url)
        async with app.connected():
            other = Position.of("0" * 32, 1, 1)
            for asked in (
                app.ask(BalanceOf(account_id="a1"), after=other),
                anext(app.watch(BalanceOf(account_id="a1"), after=other)),
            ):
                with pytest.raises(WrongLog, match="another database"):
                    await asked
            wrong: Any = "17"
            with pytest.raises(TypeError, match=r"Position\(text\) makes one of a text"):
                await app.ask(BalanceOf(account_id="a1"), after=wrong)

    asyncio.run(run())


def test_nothing_is_waited_for_inside_a_handler(file_url: str) -> None:
    app, said = with_rows(file_url), list[str]()

    @app.on
    async def look(event: Deposited, bank: App) -> None:
        position = Position.of(bank.open_store().log_id, 1, 1)
        with pytest.raises(InsideHandler) as refused:
            await bank.ask(Lines(account_id="a1"), after=position)
        said.append(str(refused.value))

    async def run() -> None:
        async with app:
            await (await app.send(Deposit(account_id="a1", amount=Decimal(1)))).wait()
            assert said[0].startswith("look tried to wait for others while it handles an event")

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------------------ streams


def streaming(url: str) -> tuple[App, list[str]]:
    app, log = desk(url), list[str]()

    @app.query
    async def each(query: Each, account: Account, call: Call[Each], bank: App) -> AsyncIterator[Decimal]:
        log.append(f"begins for {call.principal_id}")
        try:
            yield account.balance
            async for row in bank.log.read(Deposited, criteria=Criteria(account_id=query.account_id)):
                yield row.event.amount
        finally:
            log.append("ends")

    return app, log


def test_a_stream_is_read_as_it_is_made_and_closed_when_its_reader_stops(url: str) -> None:
    async def run() -> None:
        app, log = streaming(url)
        async with app.connected():
            for number in (1, 2, 3):
                await app.send(Deposit(account_id="a1", amount=Decimal(number)))
            amounts = [amount async for amount in app.stream(Each(account_id="a1"), principal="c1")]
            assert amounts == [6, 1, 2, 3]
            assert log == ["begins for c1", "ends"]
            log.clear()
            async with aclosing(app.stream(Each(account_id="a1"))) as found:
                assert log == []
                assert await anext(found) == 6
                assert log == ["begins for None"]
            assert log == ["begins for None", "ends"]

    asyncio.run(run())


def test_what_is_streamed_is_not_asked_and_the_other_way_round(file_url: str) -> None:
    async def run() -> None:
        app, _ = streaming(file_url)
        async with app.connected():
            with pytest.raises(Misuse, match="Each is answered by a stream"):
                await app.ask(Each(account_id="a1"))
            wrong: Any = BalanceOf(account_id="a1")
            with pytest.raises(Misuse, match=r"BalanceOf is answered at once: app.ask\(query\)"):
                [row async for row in app.stream(wrong)]

    asyncio.run(run())


def test_a_stream_may_be_declared_by_a_text(file_url: str) -> None:
    class Quoted(Query["AsyncIterator[Line]"]): ...

    class Full(Query["abc.AsyncIterator[Line]"]): ...

    class Whole(Query["list[AsyncIterator[Line]]"]): ...

    app = App("desk", url=file_url)

    @app.query
    async def quoted(query: Quoted) -> AsyncIterator[Line]:
        yield Line("a1", Decimal(1))

    @app.query
    async def full(query: Full) -> abc.AsyncIterator[Line]:
        yield Line("a1", Decimal(1))

    with pytest.raises(DefinitionError, match="what is streamed"):

        @app.query
        async def whole(query: Whole) -> AsyncIterator[Line]:
            yield Line("a1", Decimal(1))

    async def run() -> None:
        async with app.connected():
            assert [line.account_id async for line in app.stream(Quoted())] == ["a1"]
            assert [line.account_id async for line in app.stream(Full())] == ["a1"]

    asyncio.run(run())


def test_a_stream_that_fails_in_the_middle_raises_what_it_raised(file_url: str) -> None:
    app = App("desk", url=file_url)

    @app.query
    async def each(query: Each) -> AsyncIterator[Decimal]:
        yield Decimal(1)
        raise ZeroDivisionError("a bug")

    async def run() -> None:
        async with app.connected():
            async with aclosing(app.stream(Each(account_id="a1"))) as found:
                assert await anext(found) == 1
                with pytest.raises(ZeroDivisionError, match="a bug"):
                    await anext(found)

    asyncio.run(run())


# ---------------------------------------------------------------------------------------------------------- bad input


def test_a_query_that_nobody_answers_is_told_with_those_that_are_answered(file_url: str) -> None:
    async def run() -> None:
        app = with_rows(file_url)
        async with app.connected():
            with pytest.raises(DefinitionError, match=r"nothing answers Unanswered.*BalanceOf, Lines"):
                await app.ask(Unanswered())
        with pytest.raises(Unavailable, match="is not open"):
            await app.ask(BalanceOf(account_id="a1"))

    asyncio.run(run())


def test_two_handlers_of_one_query_are_refused_at_the_start(file_url: str) -> None:
    app, other = desk(file_url), Service("other")
    app.include(other)

    @other.query
    def balance_too(query: BalanceOf) -> Decimal:
        return Decimal(0)

    async def run() -> None:
        with pytest.raises(DefinitionError, match="BalanceOf has two handlers, balance and balance_too"):
            async with app.connected():
                pass

    asyncio.run(run())


def test_a_query_handler_cannot_write_by_other_ways(url: str) -> None:
    app = App("desk", url=url)

    @app.command
    def deposit(command: Deposit) -> Deposited:
        return Deposited(account_id=command.account_id, amount=command.amount)

    @app.query
    async def balance(query: BalanceOf, bank: App) -> Decimal:
        with pytest.raises(InsideHandler, match="balance tried to append events while it answers a query"):
            await bank.publish(Deposited(account_id="a1", amount=Decimal(1)))
        with pytest.raises(InsideHandler, match="balance tried to send a Deposit while it answers a query"):
            await bank.send(Deposit(account_id="a1", amount=Decimal(1)), idempotency_key="k")
        return Decimal(0)

    async def run() -> None:
        async with app.connected():
            assert await app.ask(BalanceOf(account_id="a1")) == 0
            assert [row async for row in app.log.read()] == []

    asyncio.run(run())


async def async_with_rows(query: Lines, tx: Transaction) -> list[Line]:
    return []


def a_generator(query: Lines) -> Any:
    yield 1


async def not_said_to_stream(query: Lines) -> AsyncIterator[Line]:
    yield Line("a1", Decimal(1))


def said_to_stream(query: Each) -> Any: ...
def of_another_answer(query: BalanceOf) -> str: ...  # type: ignore[empty-body]
def of_perhaps_none(query: BalanceOf) -> Decimal | None: ...
async def of_other_parts(query: Each) -> AsyncIterator[Line]:
    yield Line("a1", Decimal(1))


def of_a_command(query: Withdraw) -> int: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (async_with_rows, "`async def` cannot take a Transaction"),
        (a_generator, "a generator cannot answer"),
        (not_said_to_stream, r"what is streamed is Query\[AsyncIterator\[Row\]\]"),
        (said_to_stream, "what is streamed is an async generator"),
        (of_a_command, "takes the query it answers"),
        (of_another_answer, "returns str, and BalanceOf says that it is answered by Decimal: let them agree"),
        (of_perhaps_none, r"returns Decimal \| None, and BalanceOf says"),
        (
            of_other_parts,
            r"returns AsyncIterator\[Line\], and Each says that it is answered by AsyncIterator\[Decimal\]",
        ),
    ],
)
def test_what_is_no_query_handler_is_refused_where_it_is_declared(function: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        App("desk").query(function)
