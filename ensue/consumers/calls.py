"""Handlers at work outside the transaction: async ones as tasks, plain ones on threads, each with its time limit.

A call ends in exactly one of three ways, told on the loop's thread: its machine hears that it was `cancelled` by us, or the
consumer is told that it `succeeded` or `failed`. A thread cannot be stopped, nor a coroutine that swallows its
cancellation: at the limit it is said to be stuck, and its outcome, when it comes, is a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

from ensue.consumers.handling import Handling, Mode
from ensue.consumers.machine import Machine, Slot
from ensue.events.stored import Draft
from ensue.world import Threads, World

__all__ = ["CANCEL_SECONDS", "SWALLOWED_SECONDS", "Caller", "Calls"]

CANCEL_SECONDS = 5.0
SWALLOWED_SECONDS = 1.0
"""So long after its time limit, a handler that was cancelled and still runs has swallowed the cancellation."""


class Caller(Protocol):
    """Who wants to know how calls end: the consumer's runner."""

    def succeeded(self, machine: Machine, slot: Slot, events: Sequence[Draft], micros: int, /) -> None: ...

    def failed(self, machine: Machine, slot: Slot, error: BaseException, micros: int, /) -> None: ...

    def stuck(self, machine: Machine, slot: Slot, limit_seconds: float, /) -> None: ...

    def ended(self) -> None:
        """A place is free: `running` has fallen by one."""
        ...


class Calls:
    """The calls of one consumer in this process."""

    def __init__(self, world: World, handling: Handling, caller: Caller, *, name: str) -> None:
        self._world = world
        self._handling = handling
        self._caller = caller
        self._name = name
        self._threads: Threads | None = None
        self._tasks: dict[asyncio.Task[None], Slot] = {}
        self._slots: dict[Slot, Machine] = {}
        self._cancelled: set[Slot] = set()

    @property
    def running(self) -> int:
        return len(self._slots)

    def started_before(self, instant: int) -> Iterator[tuple[Machine, Slot]]:
        """What runs since before an instant (microseconds)."""
        return ((machine, slot) for slot, machine in self._slots.items() if slot.started < instant)

    def begin(self, machine: Machine, slot: Slot) -> None:
        """Call the handler for this slot."""
        self._slots[slot] = machine
        if self._handling.mode is Mode.ASYNC:
            task = self._world.spawn(self._call(machine, slot), name=f"{self._name} {slot.position}")
            self._tasks[task] = slot
            task.add_done_callback(self._task_ended)
        else:
            self._call_on_thread(machine, slot)

    def drop(self, machine: Machine) -> None:
        """Cancel what can be cancelled of a machine that is given up."""
        for task, slot in self._tasks.items():
            if self._slots[slot] is machine:
                self._cancelled.add(slot)
                task.cancel()

    async def cancel_all(self) -> None:
        """Cancel every task and wait for them a moment; start no more threads."""
        for task, slot in self._tasks.items():
            self._cancelled.add(slot)
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=CANCEL_SECONDS)
        if self._threads is not None:
            self._threads.close()

    # -------------------------------------------------------------------------------------------------------- tasks

    async def _call(self, machine: Machine, slot: Slot) -> None:
        started = self._world.monotonic()
        limit = self._handling.timeout_seconds
        watch: asyncio.TimerHandle | None = None
        if limit:
            stuck = partial(self._caller.stuck, machine, slot, limit)
            watch = self._world.call_later(limit + SWALLOWED_SECONDS, stuck)
        try:
            async with asyncio.timeout(limit):
                events = await self._handling.acall(slot)
            self._world.failpoint("delivery.called")
            if limit and self._world.monotonic() - started >= limit + SWALLOWED_SECONDS:
                raise TimeoutError
        except asyncio.CancelledError:
            if slot in self._cancelled:
                machine.cancelled(slot)
                raise
            error: Exception = RuntimeError("the handler was cancelled from inside")
            self._caller.failed(machine, slot, error, self._micros_since(started))
        except Exception as raised:
            error = raised
            if isinstance(error, TimeoutError) and limit and self._world.monotonic() - started >= limit:
                error = TimeoutError(f"the handler took longer than its limit of {limit:g} s")
            self._caller.failed(machine, slot, error, self._micros_since(started))
        else:
            self._caller.succeeded(machine, slot, events, self._micros_since(started))
        finally:
            if watch is not None:
                watch.cancel()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        slot = self._tasks.pop(task)
        machine = self._slots[slot]
        error = None if task.cancelled() else task.exception()
        if error is not None:  # what is no `Exception`, such as the failure of a test: here it ends one attempt
            self._caller.failed(machine, slot, error, 0)
        self._ended(slot)

    # ------------------------------------------------------------------------------------------------------ threads

    def _call_on_thread(self, machine: Machine, slot: Slot) -> None:
        if self._threads is None:
            self._threads = self._world.threads(self._handling.concurrency, name=self._name)
        started = self._world.monotonic()
        try:
            call = self._handling.prepare(slot)
        except Exception as error:
            self._caller.failed(machine, slot, error, 0)
            self._ended(slot)
            return
        limit = self._handling.timeout_seconds
        watch: asyncio.TimerHandle | None = None
        if limit:
            watch = self._world.call_later(limit, partial(self._caller.stuck, machine, slot, limit))

        def done(result: object, error: BaseException | None) -> None:
            micros = self._micros_since(started)
            if watch is not None:
                watch.cancel()
            if limit and micros >= limit * 1_000_000:
                error = TimeoutError(f"the handler took {micros / 1e6:.3g} s, its limit is {limit:g} s")
            self._world.failpoint("delivery.called")
            try:
                if error is not None:
                    raise error
                events = self._handling.drafts(result, slot)
            except BaseException as raised:  # also what a thread raises to end its program: here it ends one attempt
                self._caller.failed(machine, slot, raised, micros)
            else:
                self._caller.succeeded(machine, slot, events, micros)
            self._ended(slot)

        self._threads.run(call, done)

    def _ended(self, slot: Slot) -> None:
        del self._slots[slot]
        self._cancelled.discard(slot)
        self._caller.ended()

    def _micros_since(self, started: float) -> int:
        return int((self._world.monotonic() - started) * 1_000_000)
