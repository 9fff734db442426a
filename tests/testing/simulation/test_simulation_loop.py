"""asyncio on the simulation loop: virtual time, a chosen order, and an end to every program that makes no progress."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from ensue.testing.simulation import Deadlock, Livelock, SimulationLoop, Tape
from ensue.testing.simulation.loop import ordered_as_completed

T = TypeVar("T")


def run(program: Coroutine[Any, Any, T], *, tape: Tape | None = None, permuted: bool = False) -> T:
    loop = SimulationLoop(tape or Tape.boring(), permuted=permuted)
    try:
        with ordered_as_completed():
            return loop.run_until_complete(program)
    finally:
        loop.close()


def test_a_year_of_sleeps_takes_few_steps() -> None:
    async def year() -> float:
        for _ in range(365):
            await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    loop = SimulationLoop(Tape.boring())
    assert loop.run_until_complete(year()) == 365 * 86_400
    assert loop.steps < 5 * 365
    loop.close()


def test_time_limits_are_virtual() -> None:
    async def limited() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3_600):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(limited()) == 3_600


def test_ready_steps_are_first_in_first_out_without_a_tape_that_says_otherwise() -> None:
    assert run(order_of_ten()) == list(range(10))
    assert run(order_of_ten(), permuted=True) == list(range(10))


def test_a_seed_permutes_ready_steps_and_does_so_again() -> None:
    orders = [tuple(run(order_of_ten(), tape=Tape.record(seed), permuted=True)) for seed in range(30)]
    assert orders == [tuple(run(order_of_ten(), tape=Tape.record(seed), permuted=True)) for seed in range(30)]
    assert len(set(orders)) > 5


def test_timers_of_one_instant_are_due_in_the_order_in_which_they_were_set() -> None:
    async def timers() -> list[int]:
        order: list[int] = []
        loop = asyncio.get_running_loop()
        for number in range(50):
            loop.call_at(1.0, order.append, number)
        await asyncio.sleep(2)
        return order

    assert run(timers()) == list(range(50))


def test_task_groups_cancel_their_children_in_the_same_order_every_time() -> None:
    assert len({tuple(run(cancelled_in_group(junk))) for junk in range(6)}) == 1


def test_as_completed_starts_coroutines_in_order() -> None:
    async def completed() -> list[int]:
        started: list[int] = []

        async def one(number: int) -> int:
            started.append(number)
            return number

        answers = [await each for each in asyncio.as_completed([one(number) for number in range(12)])]
        assert answers == started
        return started

    assert run(completed()) == list(range(12))


def test_wait_gives_back_its_sets_in_the_same_order_every_time() -> None:
    async def waited(junk: int) -> list[int]:
        async def one(number: int) -> int:
            return number

        tasks: list[asyncio.Task[int]] = []
        for number in range(12):
            _ = [bytearray(junk * 37 + number * 11) for _ in range(junk)]
            tasks.append(asyncio.ensure_future(one(number)))
        done, _ = await asyncio.wait(tasks)
        return [task.result() for task in done]

    assert len({tuple(run(waited(junk))) for junk in range(6)}) == 1


def test_calls_on_an_executor_run_inline() -> None:
    async def asks() -> tuple[str, str]:
        return threading.current_thread().name, await asyncio.to_thread(lambda: threading.current_thread().name)

    mine, its = run(asks())
    assert its == mine


def test_an_error_on_an_executor_reaches_its_caller() -> None:
    async def asks() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)

    run(asks())


def test_a_deadlock_names_who_waits_and_where() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    async def program() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits_for_ever(), name="the clerk")

    with pytest.raises(Deadlock) as caught:
        run(program())
    assert "the clerk waits at" in str(caught.value)
    assert "locks.py" in str(caught.value)


def test_a_livelock_names_who_runs() -> None:
    async def spins() -> None:
        for _ in itertools.repeat(None):
            await asyncio.sleep(0)

    with pytest.raises(Livelock, match="spins"):
        run(spins())


def test_a_real_thread_may_not_call_in() -> None:
    async def starts_a_thread() -> None:
        loop = asyncio.get_running_loop()
        errors: list[BaseException] = []

        def call_in() -> None:
            try:
                loop.call_soon_threadsafe(print)
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=call_in)
        thread.start()
        thread.join()
        assert len(errors) == 1

    run(starts_a_thread())


def test_there_is_no_network() -> None:
    async def connects() -> None:
        with pytest.raises(OSError, match="no network in a simulation"):
            await asyncio.open_connection("localhost", 80)

    run(connects())


async def order_of_ten() -> list[int]:
    order: list[int] = []

    async def one(number: int) -> None:
        order.append(number)

    await asyncio.gather(*(one(number) for number in range(10)))
    return order


async def cancelled_in_group(junk: int) -> list[int]:
    order: list[int] = []

    async def child(number: int) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            order.append(number)
            raise

    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise ValueError

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(12):
                _ = [bytearray(junk * 37 + number * 11) for _ in range(junk)]
                group.create_task(child(number))
            group.create_task(fails())

    with pytest.raises(ExceptionGroup):
        await all_of_them()
    return order
