"""The door to the real world: clocks, chance, ids, tasks and threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from uuid import RFC_4122, UUID

import pytest

from ensue.world import LoopThread, RealWorld

SECOND = 1_000_000_000


class Clock:
    """The system's clock, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nanoseconds = 1_767_225_600 * SECOND
        monkeypatch.setattr(time, "time_ns", lambda: self.nanoseconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# ------------------------------------------------------------------------------------------------------------------ ids


def test_ids_are_uuids_of_version_seven_with_the_time_in_front(clock: Clock) -> None:
    id = UUID(bytes=RealWorld().new_id())
    assert (id.version, id.variant) == (7, RFC_4122)
    assert id.int >> 80 == clock.nanoseconds // 1_000_000


def test_ids_ascend_within_a_millisecond(clock: Clock) -> None:
    world = RealWorld()
    ids = [world.new_id() for _ in range(10_000)]
    assert ids == sorted(set(ids))


def test_ids_ascend_when_the_clock_goes_back(clock: Clock) -> None:
    world = RealWorld()
    ids: list[bytes] = []
    for seconds in (0, 10, -3_600, 1, 3_700):
        clock.nanoseconds += seconds * SECOND
        ids += [world.new_id() for _ in range(3)]
    assert ids == sorted(set(ids))
    assert all(UUID(bytes=id).version == 7 for id in ids)
    assert UUID(bytes=ids[-1]).int >> 80 == clock.nanoseconds // 1_000_000


def test_ids_of_two_worlds_in_one_millisecond_differ(clock: Clock) -> None:
    assert len({RealWorld().new_id() for _ in range(1_000)}) == 1_000


def test_ids_made_in_several_threads_differ() -> None:
    world = RealWorld()
    made: list[list[bytes]] = []
    threads = [threading.Thread(target=lambda: made.append([world.new_id() for _ in range(2_000)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id for ids in made for id in ids}) == 8_000


# ----------------------------------------------------------------------------------------------------- time and chance


def test_now_is_the_wall_clock_in_microseconds(clock: Clock) -> None:
    assert RealWorld().now() == clock.nanoseconds // 1_000


def test_the_clock_for_durations_does_not_follow_the_wall_clock(clock: Clock) -> None:
    world = RealWorld()
    before = world.monotonic()
    clock.nanoseconds -= 3_600 * SECOND
    assert 0 <= world.monotonic() - before < 60


def test_chance_lies_between_zero_and_one() -> None:
    world = RealWorld()
    numbers = [world.random() for _ in range(1_000)]
    assert all(0 <= number < 1 for number in numbers)
    assert len(set(numbers)) > 990


def test_a_failpoint_is_nothing() -> None:
    RealWorld().failpoint("anything")


def test_a_call_comes_later_unless_it_is_cancelled() -> None:
    async def story() -> list[str]:
        world = RealWorld()
        called: list[str] = []
        done = asyncio.Event()
        world.call_later(0.001, lambda: called.append("cancelled")).cancel()
        world.call_later(0.002, lambda: called.append("called"))
        world.call_later(0.003, done.set)
        await done.wait()
        return called

    assert asyncio.run(story()) == ["called"]


def test_a_task_has_the_name_it_was_given() -> None:
    async def story() -> tuple[str, int]:
        world = RealWorld()

        async def work() -> int:
            await world.sleep(0)
            return 7

        task = world.spawn(work(), name="counting")
        return task.get_name(), await task

    assert asyncio.run(story()) == ("counting", 7)


# -------------------------------------------------------------------------------------------------------------- threads


def test_calls_run_beside_the_loop_and_their_results_come_back_to_it() -> None:
    async def story() -> None:
        results: list[tuple[object, object, int]] = []
        done = asyncio.Event()

        def take(result: object, error: BaseException | None) -> None:
            results.append((result, error, threading.get_ident()))
            if len(results) == 3:
                done.set()

        pool = RealWorld().threads(2, name="test")
        wrong = ValueError("no")

        def fails() -> None:
            raise wrong

        pool.run(threading.get_ident, take)
        pool.run(fails, take)
        pool.run(lambda: "text", take)
        await done.wait()
        pool.close()
        here = threading.get_ident()
        assert {where for _, _, where in results} == {here}
        assert {error for _, error, _ in results} == {None, wrong}
        assert here not in [result for result, _, _ in results]

    asyncio.run(story())


def test_one_thread_runs_calls_in_the_order_given() -> None:
    async def story() -> list[int]:
        order: list[int] = []
        done = asyncio.Event()
        pool = RealWorld().threads(1, name="test")

        def call(number: int) -> Callable[[], None]:
            return lambda: order.append(number)

        for number in range(100):
            pool.run(call(number), lambda _, __: None)
        pool.run(lambda: None, lambda _, __: done.set())
        await done.wait()
        pool.close()
        return order

    assert asyncio.run(story()) == list(range(100))


def test_closing_a_pool_does_not_wait_for_a_call_that_never_ends() -> None:
    async def story() -> None:
        never = threading.Event()
        pool = RealWorld().threads(1, name="test")
        pool.run(never.wait, lambda _, __: None)
        pool.close()
        never.set()

    asyncio.run(story())


def test_a_loop_in_a_thread_of_its_own_runs_what_plain_code_gives_it() -> None:
    loop = LoopThread("test")

    async def where() -> int:
        return threading.get_ident()

    async def fails() -> None:
        raise ValueError("no")

    async def hangs() -> None:
        await asyncio.Event().wait()

    assert loop.call(where()) != threading.get_ident()
    with pytest.raises(ValueError, match="no"):
        loop.call(fails())
    with pytest.raises(TimeoutError):
        loop.call(hangs(), timeout_seconds=0.01)
    loop.close()
