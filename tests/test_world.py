"""The real world: ids that ascend, threads that hand their results to the loop, a loop in a thread."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from ensue import world
from ensue.world import LoopThread, RealWorld


def test_ids_are_of_version_7_and_ascend() -> None:
    real = RealWorld()
    ids = [real.new_id() for _ in range(20_000)]
    assert ids == sorted(set(ids))
    for id in (UUID(bytes=ids[0]), UUID(bytes=ids[-1])):
        assert (id.version, id.variant) == (7, "specified in RFC 4122")
        assert abs((id.int >> 80) - time.time_ns() // 1_000_000) < 60_000


def test_ids_ascend_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    real = RealWorld()
    before = real.new_id()
    hour = 3_600 * 1_000_000_000
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - hour)
    during = [real.new_id() for _ in range(100)]
    monkeypatch.undo()
    assert [before, *during] == sorted({before, *during})
    assert real.new_id() > during[-1]


def test_ids_from_many_threads_are_unique() -> None:
    real, found = RealWorld(), list[bytes]()
    threads = [threading.Thread(target=lambda: found.extend(real.new_id() for _ in range(2_000))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 16_000


def test_two_worlds_do_not_draw_the_same() -> None:
    one, two = RealWorld(), RealWorld()
    assert [one.random() for _ in range(5)] != [two.random() for _ in range(5)]
    assert all(0 <= one.random() < 1 for _ in range(100))


def on_threads(count: int, calls: list[Callable[[], Any]]) -> list[tuple[Any, BaseException | None, bool]]:
    """(result, error, whether it was told on the loop's thread) of each call, in the order in which they were told."""

    async def run() -> list[tuple[Any, BaseException | None, bool]]:
        told: list[tuple[Any, BaseException | None, bool]] = []
        finished, here = asyncio.Event(), threading.get_ident()
        threads = RealWorld().threads(count, name="test")

        def done(result: Any, error: BaseException | None) -> None:
            told.append((result, error, threading.get_ident() == here))
            if len(told) == len(calls):
                finished.set()

        for call in calls:
            threads.run(call, done)
        await asyncio.wait_for(finished.wait(), 30)
        threads.close()
        return told

    return asyncio.run(run())


def test_results_of_threads_come_on_the_loops_thread_and_from_one_thread_in_order() -> None:
    told = on_threads(1, [partial(int, number) for number in range(1_000)])
    assert told == [(number, None, True) for number in range(1_000)]


def test_as_many_calls_run_at_once_as_there_are_threads() -> None:
    barrier = threading.Barrier(4, timeout=30)
    assert sorted(result for result, _, _ in on_threads(4, [barrier.wait] * 4)) == [0, 1, 2, 3]


class Odd(BaseException):
    """Not an Exception: a lost one would hang its caller."""


@pytest.mark.parametrize("error", [ValueError("no"), Odd("odd"), SystemExit(3)])
def test_an_error_of_a_call_comes_as_it_is(error: BaseException) -> None:
    def fail() -> None:
        raise error

    assert on_threads(1, [fail, lambda: 7]) == [(None, error, True), (7, None, True)]


def test_a_call_that_never_ends_does_not_hold_the_exit_of_the_program() -> None:
    program = """
import asyncio, threading
from ensue.world import RealWorld
async def main():
    threads = RealWorld().threads(1, name="stuck")
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    def stuck():
        loop.call_soon_threadsafe(begun.set)
        threading.Event().wait()
    threads.run(stuck, lambda result, error: None)
    await begun.wait()
    threads.close()
asyncio.run(main())
print("over")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ("over\n", "", 0)


def test_tasks_and_timers_are_those_of_the_loop() -> None:
    async def run() -> None:
        real, rung = RealWorld(), asyncio.Event()
        began = real.monotonic()
        timer = real.call_later(0.01, rung.set)
        task = real.spawn(real.sleep(0.01), name="a sleep")
        assert task.get_name() == "a sleep"
        await rung.wait()
        await task
        assert real.monotonic() - began >= 0.01
        assert not timer.cancelled()

    asyncio.run(run())


def test_a_loop_in_a_thread_runs_what_it_is_given_and_ends_what_is_left() -> None:
    ended: list[str] = []

    async def left() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("left")

    async def begin() -> str:
        begun.append(asyncio.create_task(left()))
        await asyncio.sleep(0)
        return threading.current_thread().name

    begun: list[asyncio.Task[None]] = []
    thread = LoopThread("a loop")
    assert thread.call(begin()) == "a loop"
    assert not thread.is_current()
    thread.close()
    assert ended == ["left"]
    assert begun[0].cancelled()


def test_a_loop_in_a_thread_is_closed_though_a_task_will_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "END_SECONDS", 0.05)

    async def stubborn() -> None:
        while not free:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                refused.append(1)

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    free, refused = list[int](), list[int]()
    thread = LoopThread("a loop")
    task = thread.call(begin())
    thread.close()
    assert refused
    assert not task.done()
    task.get_coro().close()


def test_a_call_that_ends_within_the_patience_is_told_before_run_returns() -> None:
    async def story() -> list[str]:
        pool = RealWorld().threads(1, name="test")
        told: list[str] = []
        pool.run(lambda: None, lambda _, __: told.append("quick"), patience_seconds=10)
        pool.close()
        return told

    assert asyncio.run(story()) == ["quick"]


def test_a_call_that_outlasts_the_patience_is_told_later() -> None:
    async def story() -> None:
        pool, go_on, done = RealWorld().threads(1, name="test"), threading.Event(), asyncio.Event()
        pool.run(go_on.wait, lambda _, __: done.set(), patience_seconds=0.001)
        assert not done.is_set()
        go_on.set()
        await done.wait()
        pool.close()

    asyncio.run(story())
