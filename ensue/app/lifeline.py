"""What ties the code that uses an application to the consumers that run beside it.

A consumer's task ends by an error only when the store is broken: nothing that was written will be handled any more, and
whoever waits for it would wait in vain. So those who hold on to the lifeline are cancelled, as a task group does with its
body, and get the consumer's error in place of the cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from ensue.observe.signals import ConsumerFailed, Observer

__all__ = ["Lifeline"]


class Lifeline:
    """See the module. `failure` is the first error that a consumer ended by."""

    def __init__(self, observe: Observer) -> None:
        self.failure: BaseException | None = None
        self.closing = False
        """The application stops: how its consumers end is told by those who stop them."""
        self._observe = observe
        self._holding: dict[asyncio.Task[object], int] = {}
        self._cancelled: set[asyncio.Task[object]] = set()

    def check(self) -> None:
        """Errors: the failure, if there is one."""
        if self.failure is not None:
            raise self.failure

    def watch(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Notice when one of these ends by an error."""
        for task in tasks:
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None or self.closing or self.failure is not None:
            return
        self.failure = error
        self._observe(ConsumerFailed(consumer=task.get_name().removeprefix("consumer "), error=_told(error)))
        for holding in self._holding:
            self._cancelled.add(holding)
            holding.cancel()

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """The block is cancelled when a consumer fails, and raises that consumer's error. An error of its own goes first."""
        task = self.hold()
        try:
            yield
        except BaseException as error:
            self.let_go(task, error)
            raise
        else:
            self.let_go(task, None)

    def hold(self) -> asyncio.Task[object]:
        """The current task begins to hold on. Errors: the failure, if there is one already."""
        self.check()
        task: asyncio.Task[object] | None = asyncio.current_task()
        assert task is not None
        self._holding[task] = self._holding.get(task, 0) + 1
        return task

    def let_go(self, task: asyncio.Task[object], error: BaseException | None) -> None:
        """End to hold on, with what the block raised. Errors: the failure, unless the block has an error of its own."""
        count = self._holding.pop(task, 1) - 1
        if count:
            self._holding[task] = count
        ours = task in self._cancelled and not count
        if ours:
            self._cancelled.discard(task)
            task.uncancel()
        if self.failure is not None and (error is None or isinstance(error, asyncio.CancelledError)):
            raise self.failure from None


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
