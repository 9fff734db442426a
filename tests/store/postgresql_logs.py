"""Short ways to use a log in PostgreSQL, and to hold it at an exact point while somebody else does something."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import psycopg
import pytest

from ensue.events.stored import Row
from ensue.store.base import Request, Written
from ensue.store.postgresql import PostgresqlStore
from ensue.store.postgresql.session import Call, Rows, Session
from ensue.world import World
from tests.store.logs import WORLD, draft

__all__ = [
    "Hold",
    "Holds",
    "Other",
    "append",
    "at_once",
    "opened",
    "opened_many",
    "rows_of",
    "plain",
    "sql",
    "told",
    "until",
]

T = TypeVar("T")
PATIENCE_SECONDS = 30.0
AT_ONCE_SECONDS = 5.0


@contextlib.asynccontextmanager
async def opened(url: str, *, read_only: bool = False, world: World = WORLD) -> AsyncGenerator[PostgresqlStore, None]:
    store = PostgresqlStore(url, read_only=read_only)
    await store.open(world)
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def opened_many(url: str, count: int) -> AsyncGenerator[list[PostgresqlStore], None]:
    """So many stores of one log, as processes of their own would have them."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(url)) for _ in range(count)]


async def append(store: PostgresqlStore, *data: bytes, **given: Any) -> Written:
    return await store.write(Request(events=[draft(one, **given) for one in data]))


async def rows_of(store: PostgresqlStore) -> list[Row]:
    """All that is stored. Where many write, what is acknowledged may have to wait for transactions of other tests to be read."""
    if store._fence is not None:
        await store._fence.settle()
    return (await store.read(limit=1_000_000)).rows


def told(story: Callable[[], Awaitable[T]]) -> T:
    """Run the story within a limit of time: what never ends is a failure."""

    async def within() -> T:
        # What nobody waited for is told when it is collected, at any later moment. Who fails on purpose leaves such behind.
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        return await asyncio.wait_for(story(), PATIENCE_SECONDS)

    return asyncio.run(within())


async def at_once(awaited: Awaitable[T]) -> T:
    """At once, as far as anybody can tell: nobody has to give up waiting for that."""
    return await asyncio.wait_for(awaited, AT_ONCE_SECONDS)


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Look again and again until it holds."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS / 2):
            while not await holds():
                await WORLD.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited in vain: {what}") from None


def plain(url: str) -> str:
    """The URL without what only Ensue understands."""
    return re.sub(r"[?&]ensue_writers=\w+", "", url)


def sql(url: str, *statements: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Run statements as anybody could; the rows of the last one."""
    found: list[tuple[Any, ...]] = []
    with psycopg.connect(plain(url), autocommit=True, connect_timeout=10) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode(), values or None)
            found = cursor.fetchall() if cursor.description else []
    return found


class Other:
    """Another client of the database, which does one thing at a time: `async with Other(url) as other`. Nothing is committed but
    by a statement that says so."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Other:
        self._connection = await psycopg.AsyncConnection.connect(plain(self._url), autocommit=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def run(self, *statements: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of the last one."""
        found: list[tuple[Any, ...]] = []
        for statement in statements:
            cursor = await self._connection.execute(statement.encode(), values or None)
            found = await cursor.fetchall() if cursor.description else []
        return found

    async def locks_the_log(self) -> None:
        """As a process does that is about to write."""
        await self.run("BEGIN", "SELECT FROM ensue_log FOR UPDATE")

    async def writes(self, type_name: str = "Opened", *, key: bytes | None = None, tag: bytes | None = None) -> int:
        """An event, as another process writes it under the lock; its position. Not committed."""
        known = await self.run("SELECT id FROM ensue_event_type WHERE name = %s", values=[type_name])
        ((number,),) = known or await self.run(
            "INSERT INTO ensue_event_type SELECT coalesce(max(id), 0) + 1, %s, 1 FROM ensue_event_type RETURNING id",
            values=[type_name],
        )
        ((position,),) = await self.run(
            "UPDATE ensue_log SET position = position + 1, names = names + %s, batch = '\\x07' RETURNING position",
            values=[0 if known else 1],
        )
        one = draft(b"other")
        await self.run(
            "INSERT INTO ensue_event SELECT %s, %s, %s, %s, "
            "(SELECT count(*) + 1 FROM ensue_event WHERE stream = %s), %s, NULL, NULL, NULL, NULL, %s, %s",
            values=(position, one.id, number, key, key, WORLD.now(), one.meta, one.data),
        )
        if tag is not None:
            await self.run("INSERT INTO ensue_event_tag VALUES (%s, %s, %s)", values=(tag, position, number))
        return int(position)

    async def waiting(self, count: int) -> None:
        """Until so many sessions of this application wait for a lock."""

        async def are() -> bool:
            ((found,),) = await self.run(
                "SELECT pg_stat_clear_snapshot()",
                "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted "
                "AND a.application_name = current_setting('application_name')",
            )
            return bool(found == count)

        await until(are, f"{count} sessions were to wait for a lock")


class Hold:
    """A flight that waits for the test. `reached` when the store wants to send it, or when it was answered; it goes on when
    `go` is set."""

    def __init__(self, store: PostgresqlStore, text: str, *, answered: bool) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self._store = store
        # The statement COMMIT is meant, and not a word that begins so.
        self._text = re.compile(re.escape(text.encode()) + rb"(?![A-Z])")
        self._answered = answered

    def concerns(self, session: Session, calls: Sequence[Call]) -> bool:
        writer = self._store._writer
        of_this_store = session is self._store._desk or (writer is not None and session is writer._session)
        return of_this_store and not self.reached.is_set() and any(self._text.search(call.text) for call in calls)

    async def held(self, send: Callable[[], asyncio.Future[list[Rows]]]) -> list[Rows]:
        if not self._answered:
            self.reached.set()
            await self.go.wait()
            return await send()
        answer = await send()
        self.reached.set()
        await self.go.wait()
        return answer


class Holds:
    """Stops stores between two flights, and notes what the server answered with an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.errors: list[BaseException] = []
        self._sent: list[tuple[Session, bytes]] = []
        self._holds: list[Hold] = []
        original = Session.run

        def run(session: Session, *calls: Call) -> asyncio.Future[list[Rows]]:
            self._sent += [(session, call.text) for call in calls]
            for hold in self._holds:
                if hold.concerns(session, calls):
                    self._holds.remove(hold)
                    return asyncio.ensure_future(hold.held(lambda: original(session, *calls)))
            future = original(session, *calls)
            future.add_done_callback(self._note)
            return future

        monkeypatch.setattr(Session, "run", run)

    def before(self, store: PostgresqlStore, text: str) -> Hold:
        """Hold the next flight of this store that has a statement with this text before it is sent."""
        self._holds.append(Hold(store, text, answered=False))
        return self._holds[-1]

    def behind(self, store: PostgresqlStore, text: str) -> Hold:
        """The same, when the server has answered it and before the store hears of it."""
        self._holds.append(Hold(store, text, answered=True))
        return self._holds[-1]

    async def asked(self, store: PostgresqlStore, text: str, times: int) -> None:
        """Until the desk of this store has sent so many statements with this text, from now on."""
        before = len(self._sent)

        async def has() -> bool:
            found = [one for one in self._sent[before:] if one[0] is store._desk and text.encode() in one[1]]
            return len(found) >= times

        await until(has, f"{times} times {text}")

    def _note(self, future: asyncio.Future[list[Rows]]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self.errors.append(error)
