"""A database beside the log's, where rows are kept together with how far they have come.

One transaction at a time is written, on a thread: a server that is away holds up nobody else. What reads has a connection and a
thread of its own. A connection that breaks is thrown away; the next call makes another. An adapter is a `Driver`: how to connect,
and whose fault an error is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from ensue.errors import EnsueError, Unavailable
from ensue.store.base import SqlTransaction
from ensue.world import Threads, World

__all__ = ["Connection", "Driver", "Target", "ThreadedTarget"]

T = TypeVar("T")


class Target(Protocol):
    """See the module."""

    dialect: str
    """`sqlite` or `postgresql`."""
    shown: str
    """Where it is, without what may be secret."""

    async def open(self, world: World) -> None:
        """Make ready. Nothing is connected before it is used: the database may be away. May be called by several users."""
        ...

    async def close(self) -> None:
        """When each of its users has closed it: a transaction that is under way ends first, if the database answers."""
        ...

    async def transact(self, function: Callable[[SqlTransaction], T]) -> T:
        """Run the function in one transaction, on a thread, and commit what it did; nothing of it where it raises. Transactions
        come one after another.

        Errors: those of the function and of its statements, as they are; `Unavailable`, `StorageFull`, `ReadOnlyLog` (nothing is
        stored); `OutcomeUnknown`.
        """
        ...

    async def select(self, sql: str, values: Sequence[object] = (), /) -> list[tuple[Any, ...]]:
        """The rows of one reading statement. Errors: those of the statement as they are; `Unavailable`."""
        ...


class Connection(Protocol):
    """An open connection of a driver. Used by one thread at a time."""

    def begin(self) -> None: ...

    def execute(self, sql: str, values: Sequence[object], /) -> list[tuple[Any, ...]]:
        """`?` stands for each value."""
        ...

    def commit(self) -> None: ...

    def roll_back(self) -> None: ...

    def close(self) -> None: ...


class Driver(Protocol):
    """What a database is, for a target."""

    dialect: str
    """`sqlite` or `postgresql`."""
    shown: str

    def connect(self, *, reading: bool) -> Connection:
        """Errors: the driver's own."""
        ...

    def trouble(self, error: BaseException, *, committing: bool) -> EnsueError | None:
        """The database's trouble in our words; None for what is the fault of a statement, or of whoever runs it."""
        ...


class _Transaction:
    """What a function is given."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[object, ...]]:
        assert not isinstance(values, Mapping)
        return self._connection.execute(sql, values)


class _Lane:
    """A thread with a connection."""

    def __init__(self, driver: Driver, threads: Threads, *, reading: bool) -> None:
        self._driver = driver
        self._threads = threads
        self._reading = reading
        self._connection: Connection | None = None

    async def run(self, work: Callable[[Connection], T]) -> T:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._threads.run(lambda: self._work(work), done)
        found: T = await future
        return found

    def _work(self, work: Callable[[Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = self._driver.connect(reading=self._reading)
            return work(self._connection)
        except Exception as error:
            trouble = self._driver.trouble(error, committing=False)
            if trouble is not None:
                self.drop()
                raise trouble from error
            raise

    def drop(self) -> None:
        """Throw the connection away: what it has not committed is undone."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    async def close(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._threads.run(self.drop, lambda _, __: None if future.done() else future.set_result(None))
        await asyncio.wait([future], timeout=CLOSE_SECONDS)
        self._threads.close()


CLOSE_SECONDS = 5.0


class ThreadedTarget:
    """A `Target` by a driver that blocks."""

    def __init__(self, driver: Driver) -> None:
        self.dialect = driver.dialect
        self.shown = driver.shown
        self._driver = driver
        self._lanes: tuple[_Lane, _Lane] | None = None
        self._users = 0

    async def open(self, world: World) -> None:
        """See `Target.open`."""
        self._users += 1
        if self._users > 1:
            return
        self._world = world
        self._lanes = (
            _Lane(self._driver, world.threads(1, name="ensue target"), reading=False),
            _Lane(self._driver, world.threads(1, name="ensue target reading"), reading=True),
        )

    async def close(self) -> None:
        """See `Target.close`."""
        self._users = max(0, self._users - 1)
        if self._users:
            return
        lanes, self._lanes = self._lanes, None
        for lane in reversed(lanes or ()):  # who writes is last, and leaves a file that is one
            await lane.close()

    async def transact(self, function: Callable[[SqlTransaction], T]) -> T:
        """See `Target.transact`."""
        lane = self._opened()[0]

        def work(connection: Connection) -> T:
            try:
                connection.begin()
                result = function(_Transaction(connection))
                self._world.failpoint("target.commit")
            except BaseException:
                try:
                    connection.roll_back()
                except Exception:  # it is gone, and with it the transaction
                    lane.drop()
                raise
            try:
                connection.commit()
            except Exception as error:
                lane.drop()
                raise (self._driver.trouble(error, committing=True) or error) from error
            self._world.failpoint("target.committed")
            return result

        return await lane.run(work)

    async def select(self, sql: str, values: Sequence[object] = (), /) -> list[tuple[Any, ...]]:
        """See `Target.select`."""
        return await self._opened()[1].run(lambda connection: connection.execute(sql, values))

    def _opened(self) -> tuple[_Lane, _Lane]:
        if self._lanes is None:
            raise Unavailable(f"the database {self.shown} is not open")
        return self._lanes
