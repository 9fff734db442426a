"""Watching a query: the present answer, then every other one, none missed, nothing asked while nothing happens."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from decimal import Decimal
from typing import Any, TypeVar

import pytest

from ensue import App, Query, Retry, Transaction, seconds
from ensue.consumers.waiting import Bell
from ensue.domain.watching import Changes, differing
from ensue.errors import DefinitionError, Misuse, Unavailable
from ensue.store.memory import MemoryStore
from ensue.testing import AppSimulation, simulate
from ensue.world import RealWorld
from tests.domain.desk import Account, BalanceOf, Deposit, Deposited, Withdraw, desk
from tests.domain.test_queries import Each, Lines, streaming, with_rows

T = TypeVar("T")


async def soon(answers: AsyncGenerator[T, None], wanted: Callable[[T], bool]) -> T:
    """The first answer that is wanted."""
    async with asyncio.timeout(30):
        async for answer in answers:
            if wanted(answer):
                return answer
    raise AssertionError("it ended before")


def test_the_present_answer_comes_first_and_then_each_change(url: str) -> None:
    async def run() -> None:
        app = desk(url)
        async with app.connected():
            await app.send(Deposit(account_id="a1", amount=Decimal(1)))
            async with aclosing(app.watch(BalanceOf(account_id="a1"))) as answers:
                assert await anext(answers) == 1
                await app.send(Deposit(account_id="a1", amount=Decimal(2)))
                assert await anext(answers) == 3
                # Neither what is about others nor what changes nothing gives an answer.
                await app.send(Deposit(account_id="a2", amount=Decimal(50)))
                await app.send(Deposit(account_id="a1", amount=Decimal(0)))
                await app.send(Withdraw(account_id="a1", amount=Decimal(1)))
                assert await anext(answers) == 2

    asyncio.run(asyncio.wait_for(run(), 60))


def test_who_reads_slowly_gets_the_newest(url: str) -> None:
    async def run() -> None:
        app = desk(url)
        async with app.connected():
            async with aclosing(app.watch(BalanceOf(account_id="a1"))) as answers:
                assert await anext(answers) == 0
                for _ in range(20):
                    await app.send(Deposit(account_id="a1", amount=Decimal(1)))
                assert await anext(answers) == 20

    asyncio.run(asyncio.wait_for(run(), 60))


def test_changes_by_other_applications_are_seen(shared_url: str) -> None:
    async def run() -> None:
        app, other = desk(shared_url), desk(shared_url)
        async with app.connected(), other.connected():
            async with aclosing(app.watch(BalanceOf(account_id="a1"))) as answers:
                assert await anext(answers) == 0
                for number in range(1, 4):
                    await other.send(Deposit(account_id="a1", amount=Decimal(1)))
                    assert await anext(answers) == number

    asyncio.run(asyncio.wait_for(run(), 60))


def test_rows_are_watched_where_they_are_kept_here(shared_url: str) -> None:
    async def run() -> None:
        app = with_rows(shared_url)
        async with app:
            first = await app.send(Deposit(account_id="a1", amount=Decimal(1)))
            async with aclosing(app.watch(Lines(account_id="a1"), after=first.position)) as answers:
                assert [line.amount for line in await anext(answers)] == [1]
                await app.send(Deposit(account_id="a1", amount=Decimal(2)))
                assert [line.amount for line in await anext(answers)] == [1, 2]

    asyncio.run(asyncio.wait_for(run(), 60))


def test_rows_are_watched_where_another_application_keeps_them(shared_url: str) -> None:
    async def run() -> None:
        keeping, watching = with_rows(shared_url), with_rows(shared_url)
        async with keeping, watching.connected():
            first = await keeping.send(Deposit(account_id="a1", amount=Decimal(1)))
            async with aclosing(watching.watch(Lines(account_id="a1"), after=first.position)) as answers:
                assert len(await anext(answers)) == 1
                for number in range(2, 5):
                    await keeping.send(Deposit(account_id="a1", amount=Decimal(1)))
                    assert len(await anext(answers)) == number

    asyncio.run(asyncio.wait_for(run(), 60))


def test_rows_of_other_keys_are_watched_while_one_is_parked_and_those_too_when_it_is_mended(shared_url: str) -> None:
    async def run() -> None:
        keeping, watching = with_rows(shared_url), with_rows(shared_url)
        keeping._retry = Retry.never
        async with keeping, watching.connected():
            first = await keeping.send(Deposit(account_id="a1", amount=Decimal(1)))
            async with (
                aclosing(watching.watch(Lines(account_id="a1"), after=first.position)) as one,
                aclosing(watching.watch(Lines(account_id="a2"))) as other,
            ):
                assert len(await anext(one)) == 1
                assert len(await anext(other)) == 0
                await keeping.send(Deposit(account_id="a1", amount=Decimal(13)))
                await keeping.send(Deposit(account_id="a1", amount=Decimal(2)))
                await keeping.send(Deposit(account_id="a2", amount=Decimal(1)))
                assert len(await anext(other)) == 1
                async for letter in keeping.dead_letters.list():
                    await keeping.dead_letters.discard(letter.id, by="a test", note="unlucky")
                assert len(await anext(one)) == 2

    asyncio.run(asyncio.wait_for(run(), 60))


def test_it_ends_when_the_caller_stops_and_nothing_goes_on(file_url: str) -> None:
    async def run() -> None:
        app = with_rows(file_url)
        async with app:
            before = asyncio.all_tasks()
            for query in (BalanceOf(account_id="a1"), BalanceOf(account_id="a2")):
                async with aclosing(app.watch(query)) as answers:
                    await anext(answers)
                    assert any(task.get_name() == "ensue watch" for task in asyncio.all_tasks())
            await asyncio.wait(asyncio.all_tasks() - before, timeout=5) if asyncio.all_tasks() - before else None
            assert not [task for task in asyncio.all_tasks() if task.get_name() == "ensue watch"]
            # And it begins again.
            async with aclosing(app.watch(BalanceOf(account_id="a1"))) as answers:
                assert await anext(answers) == 0
                await app.send(Deposit(account_id="a1", amount=Decimal(1)))
                assert await anext(answers) == 1

    asyncio.run(asyncio.wait_for(run(), 60))


def test_it_ends_by_an_error_when_the_application_is_closed(url: str) -> None:
    async def run() -> None:
        app = desk(url)
        async with app.connected():
            answers = app.watch(BalanceOf(account_id="a1"))
            assert await anext(answers) == 0
            waiting = asyncio.get_running_loop().create_task(_next(answers))
            await asyncio.wait([waiting], timeout=0.05)
            assert not waiting.done()
        with pytest.raises(Unavailable):
            await waiting

    asyncio.run(asyncio.wait_for(run(), 60))


async def _next(answers: AsyncGenerator[Any, None]) -> Any:
    return await anext(answers)


def test_a_waiting_caller_may_be_cancelled(url: str) -> None:
    async def run() -> None:
        app = desk(url)
        async with app.connected():
            async with aclosing(app.watch(BalanceOf(account_id="a1"))) as answers:
                assert await anext(answers) == 0
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(_next(answers), 0.02)
            assert await app.ask(BalanceOf(account_id="a1")) == 0

    asyncio.run(asyncio.wait_for(run(), 60))


def test_nobody_asks_while_nothing_happens(shared_url: str) -> None:
    app, asked = with_rows(shared_url), list[str]()

    class Count(Query[int]): ...

    class Sum(Query[Decimal]):
        account_id: str

    @app.query
    def count(query: Count, tx: Transaction) -> int:
        asked.append("count")
        return tx.rows(int, "SELECT count(*) FROM line")[0]

    @app.query
    def sum_(query: Sum, account: Account) -> Decimal:
        asked.append("sum")
        return account.balance

    async def run() -> None:
        async with app:
            first = await app.send(Deposit(account_id="a1", amount=Decimal(1)))
            async with (
                aclosing(app.watch(Count(), after=first.position)) as counts,
                aclosing(app.watch(Sum(account_id="a1"))) as sums,
            ):
                assert [await anext(counts), await anext(sums)] == [1, 1]
                waiting = [asyncio.get_running_loop().create_task(_next(one)) for one in (counts, sums)]
                await asyncio.wait(
                    waiting, timeout=1.5
                )  # a second after the last event the consumer writes down where it is
                asked.clear()
                await asyncio.wait(waiting, timeout=1.5)
                found, asked[:] = list(asked), []
                await app.send(Deposit(account_id="a1", amount=Decimal(1)))
                assert await asyncio.gather(*waiting) == [2, 2]
                assert found == []

    asyncio.run(asyncio.wait_for(run(), 60))


def test_an_answer_that_its_reader_changes_is_compared_as_it_was(file_url: str) -> None:
    async def run() -> None:
        app = with_rows(file_url)
        async with app:
            first = await app.send(Deposit(account_id="a1", amount=Decimal(1)))
            async with aclosing(app.watch(Lines(account_id="a1"), after=first.position)) as answers:
                lines = await anext(answers)
                lines.append(lines[0])
                await app.send(Deposit(account_id="a1", amount=Decimal(1)))
                assert len(await anext(answers)) == 2

    asyncio.run(asyncio.wait_for(run(), 60))


def test_only_those_are_asked_again_whom_an_event_concerns(url: str) -> None:
    app, asked = App("desk", url=url), Counter[str]()

    @app.query
    def balance(query: BalanceOf, account: Account) -> Decimal:
        asked[query.account_id] += 1
        return account.balance

    async def run() -> None:
        async with app.connected():
            async with (
                aclosing(app.watch(BalanceOf(account_id="a1"))) as one,
                aclosing(app.watch(BalanceOf(account_id="a2"))) as other,
            ):
                assert [await anext(one), await anext(other)] == [0, 0]
                for number in range(1, 6):
                    await app.publish(Deposited(account_id="a2", amount=Decimal(1)))
                    await app.publish(Deposited(account_id="a3", amount=Decimal(1)))
                    assert await anext(other) == number
                assert asked["a1"] == 1
                await app.publish(*[Deposited(account_id="a3", amount=Decimal(1))] * 1500)
                await app.publish(Deposited(account_id="a1", amount=Decimal(1)))
                assert await anext(one) == 1

    asyncio.run(asyncio.wait_for(run(), 60))


def test_what_is_watched_by_a_tenant_is_the_tenants(file_url: str) -> None:
    app = desk(file_url, tenants="tag")

    async def run() -> None:
        async with app.connected(), app.tenant("one") as one, app.tenant("two") as two:
            async with aclosing(one.watch(BalanceOf(account_id="a1"))) as answers:
                assert await anext(answers) == 0
                await two.publish(Deposited(account_id="a1", amount=Decimal(7)))
                await one.publish(Deposited(account_id="a1", amount=Decimal(1)))
                assert await anext(answers) == 1

    asyncio.run(asyncio.wait_for(run(), 60))


def test_hundreds_of_watchers_share_what_they_wait_for(file_url: str) -> None:
    async def run() -> None:
        app = desk(file_url)
        async with app.connected():

            async def last(number: int) -> Decimal:
                async with aclosing(app.watch(BalanceOf(account_id=f"a{number % 5}"))) as answers:
                    return await soon(answers, lambda balance: balance == 3)

            watching = [asyncio.get_running_loop().create_task(last(number)) for number in range(300)]
            for _ in range(3):
                for number in range(5):
                    await app.send(Deposit(account_id=f"a{number}", amount=Decimal(1)))
            assert set(await asyncio.gather(*watching)) == {Decimal(3)}

    asyncio.run(asyncio.wait_for(run(), 60))


def test_what_is_streamed_or_unknown_is_not_watched(file_url: str) -> None:
    class Unanswered(Query[int]): ...

    async def run() -> None:
        app, _ = streaming(file_url)
        async with app.connected():
            with pytest.raises(Misuse, match="Each is answered by a stream"):
                await anext(app.watch(Each(account_id="a1")))
            with pytest.raises(DefinitionError, match="nothing answers Unanswered"):
                await anext(app.watch(Unanswered()))

    asyncio.run(run())


def test_what_a_handler_raises_ends_the_watch(file_url: str) -> None:
    app = App("desk", url=file_url)

    @app.query
    def balance(query: BalanceOf, account: Account) -> Decimal:
        if account.balance > 1:
            raise ZeroDivisionError("a bug")
        return account.balance

    async def run() -> None:
        async with app.connected():
            answers = app.watch(BalanceOf(account_id="a1"))
            assert await anext(answers) == 0
            await app.publish(Deposited(account_id="a1", amount=Decimal(5)))
            with pytest.raises(ZeroDivisionError, match="a bug"):
                await anext(answers)
            with pytest.raises(StopAsyncIteration):
                await anext(answers)

    asyncio.run(asyncio.wait_for(run(), 60))


# ------------------------------------------------------------------------------------------------------- none is missed


@pytest.mark.parametrize("moment", ["before it is read", "after it is read", "after it is given"])
def test_a_change_at_any_moment_of_the_question_is_answered(moment: str) -> None:
    async def run() -> None:
        store, world = MemoryStore(), RealWorld()
        await store.open(world)
        changes, value, pending = Changes(store, world, Bell(), None), [0], [moment]

        async def change(now: str) -> None:
            if pending == [now]:
                pending.clear()
                value[0] = 1
                changes.rows_changed()
                await asyncio.sleep(0)

        async def ask() -> int:
            await change("before it is read")
            found = value[0]
            await change("after it is read")
            return found

        async with aclosing(differing(changes, ask, tags=None, rows=True)) as answers:
            found = [await anext(answers)]
            await change("after it is given")
            if found == [0]:
                found.append(await asyncio.wait_for(_next(answers), 5))
            assert found[-1] == 1
        await store.close()

    asyncio.run(run())


class Failing:
    """A store whose waits for changes fail when they are told to."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.fail = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def changed(self, after: int) -> int:
        await self.fail.wait()
        self.fail.clear()
        raise Unavailable("for a while")


def test_who_watches_again_after_a_failure_is_not_held_up_by_who_reads_slowly_and_that_one_misses_nothing() -> None:
    async def run() -> None:
        store, world = MemoryStore(), RealWorld()
        await store.open(world)
        failing: Any = Failing(store)
        changes, value = Changes(failing, world, Bell(), None), [0]

        async def ask() -> int:
            return value[0]

        slow = differing(changes, ask, tags=None, rows=True)
        quick = differing(changes, ask, tags=None, rows=True)
        async with aclosing(slow), aclosing(quick):
            assert [await anext(slow), await anext(quick)] == [0, 0]
            failing.fail.set()
            with pytest.raises(Unavailable, match="for a while"):
                await anext(quick)
            value[0] = 1  # nobody counts it
            async with aclosing(differing(changes, ask, tags=None, rows=True)) as again:
                assert await anext(again) == 1
                assert await asyncio.wait_for(_next(slow), 5) == 1
                value[0] = 2
                changes.rows_changed()
                assert [await anext(again), await anext(slow)] == [2, 2]
        await store.close()

    asyncio.run(run())


class Kept(Query[int]):
    """How many deposits the table has."""


def watched() -> App:
    app = with_rows("memory:", "watched")

    @app.query
    def kept(query: Kept, tx: Transaction) -> int:
        there = tx.execute("SELECT 1 FROM sqlite_schema WHERE name = 'line'")
        return tx.rows(int, "SELECT count(*) FROM line")[0] if there else 0

    return app


@simulate(watched(), crashes="everywhere", runs=60)
async def test_the_last_answer_is_that_of_the_log_whatever_happens(sim: AppSimulation) -> None:
    """Whoever watches again after a death gets to see everything, and who is not interrupted misses nothing."""
    for number in range(1, 4):
        await sim.app.publish(Deposited(account_id="a1", amount=Decimal(number)))

    async def seen(app: App) -> bool:
        async with (
            aclosing(app.watch(BalanceOf(account_id="a1"))) as balances,
            aclosing(app.watch(Kept())) as counts,
        ):
            async for balance in balances:
                if balance == 6:
                    break
            async for count in counts:
                if count == 3:
                    break
        return True

    assert await sim.inside(seen)
    await sim.run_until_quiet()


def test_an_answer_is_not_asked_for_again_before_it_is_wanted(file_url: str) -> None:
    app, asked = App("desk", url=file_url), [0]

    @app.query
    async def balance(query: BalanceOf, account: Account) -> Decimal:
        asked[0] += 1
        return account.balance

    async def run() -> None:
        async with app.connected():
            async with aclosing(app.watch(BalanceOf(account_id="a1"), timeout=seconds(1))) as answers:
                await anext(answers)
                for _ in range(10):
                    await app.publish(Deposited(account_id="a1", amount=Decimal(1)))
                assert asked == [1]
                assert await anext(answers) == 10
                assert asked == [2]

    asyncio.run(asyncio.wait_for(run(), 60))
