"""Programs that tests start as processes of their own: `python -m tests.store.children PROGRAM ARGUMENTS`.

They say what they did on lines of their standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from ensue.errors import EnsueError, ForeignConnection
from ensue.events.stored import Draft
from ensue.store.base import Request, SqlTransaction
from ensue.store.postgresql import PostgresqlStore
from ensue.store.sqlite import SqliteStore
from ensue.store.sqlite.files import LogFiles
from tests.store.logs import WORLD, append, draft, opened, rows

NOBODY = 65534


def say(*words: object) -> None:
    print(*words, flush=True)


async def appends(path: Path, count: int) -> None:
    """Append events one after the other, telling each position when it is acknowledged."""
    async with opened(path) as store:
        for number in range(count):
            written = await append(store, b"%d-%d" % (os.getpid(), number))
            say(written.first)


async def reopens(path: Path, count: int) -> None:
    """Open the log, append one event and close it, again and again, telling each position."""
    for number in range(count):
        async with opened(path) as store:
            say((await append(store, b"%d" % number)).first)


async def watches(path: Path, count: int) -> None:
    """Tell each new position, and when it was seen by the clock that all processes of a machine share."""
    async with opened(path) as store:
        say("ready")
        for position in range(1, count + 1):
            await store.changed(position - 1)
            say(position, time.monotonic())


async def fills(path: Path, megabytes: int) -> None:
    """Append until no file may grow any more; then again when it may."""
    async with opened(path) as store:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (megabytes * 1024 * 1024, hard))
        with contextlib.suppress(EnsueError):
            while True:
                say(await _stored(store))
        say(await _refused(store))
        say(len(await rows(store)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        say(await _stored(store))


async def _stored(store: SqliteStore) -> int:
    return (await append(store, b"." * 100_000)).last


async def _refused(store: SqliteStore) -> str:
    try:
        await _stored(store)
    except EnsueError as error:
        return f"{type(error).__name__}: {error}"
    return "stored"


async def forks(path: Path) -> None:
    """Use a log in a child made by a fork, and go on with it in the parent."""
    async with opened(path) as store:
        await append(store, b"before")
        process = os.fork()
        if not process:
            with contextlib.suppress(BaseException):
                asyncio.run(_in_fork(store))
            os._exit(0)
        os.waitpid(process, 0)  # noqa: ASYNC222
        await append(store, b"after")
        say(len(await rows(store)))


async def _in_fork(store: SqliteStore) -> None:
    say("write", await _refused(store))
    try:
        await store.read()
    except EnsueError as error:
        say("read", type(error).__name__)
    await store.close()


async def loses(path: Path, guard: bool) -> None:
    """Let the standard library open and close the log's file between two appends."""
    store = SqliteStore(str(path), guard=guard)
    await store.open(WORLD)
    await append(store, b"first")
    try:
        connection = sqlite3.connect(path)
        connection.execute("SELECT count(*) FROM ensue_event").fetchall()
        connection.close()
        say("opened")
    except ForeignConnection:
        say("refused")
    say("acknowledged", (await append(store, b"second")).last)
    os._exit(0)  # as a process that dies


async def attaches(path: Path) -> None:
    """Let the standard library attach the log's file, which no hook sees, between two appends."""
    store = SqliteStore(str(path))
    await store.open(WORLD)
    await append(store, b"first")
    connection = sqlite3.connect(":memory:")
    connection.execute("ATTACH ? AS log", (str(path),))
    connection.execute("SELECT count(*) FROM log.ensue_event").fetchall()
    connection.close()
    say("acknowledged", (await append(store, b"second")).last)
    os._exit(0)


async def looks(path: Path, waits: bool) -> None:
    """As a user who may write nothing: open, tell how many events there are, try to write; wait for one more."""
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        async with opened(path) as store:
            say(len(await rows(store)))
            say(await _refused(store))
            if waits:
                await store.changed(store.head())
                say(len(await rows(store)))
    except EnsueError as error:
        say(f"{type(error).__name__}: {error}")


async def holds(path: Path) -> None:
    """Hold the file locked for writing, as a program that knows nothing of Ensue does, until told to end."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    say("locked")
    sys.stdin.readline()
    connection.execute("ROLLBACK")
    connection.close()


async def keeps(path: Path) -> None:
    """Take the turn to write and keep it until told to end, as a process that is stopped at the wrong moment."""
    files = LogFiles(str(path))
    files.lock()
    say("locked")
    sys.stdin.readline()


async def stops(url: str) -> None:
    """On PostgreSQL: stop in the middle of a transaction, as a process that is paused at the wrong moment; when it goes on,
    write what it was about to write, and tell where that is."""
    store = PostgresqlStore(url)
    await store.open(WORLD)
    runs: list[int] = []

    def thing(tx: SqlTransaction) -> Sequence[Draft]:
        runs.append(len(runs) + 1)
        tx.execute("CREATE TABLE thing (number integer)")
        tx.execute("INSERT INTO thing VALUES (?)", (len(runs),))
        say("inside")
        if len(runs) == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return ()

    say((await store.write(Request(events=[draft(b'"mine"')], apply=(thing,)))).last)
    await store.close()


PROGRAMS: dict[str, Callable[[list[str]], Coroutine[Any, Any, None]]] = {
    "appends": lambda given: appends(Path(given[0]), int(given[1])),
    "reopens": lambda given: reopens(Path(given[0]), int(given[1])),
    "watches": lambda given: watches(Path(given[0]), int(given[1])),
    "fills": lambda given: fills(Path(given[0]), int(given[1])),
    "forks": lambda given: forks(Path(given[0])),
    "loses": lambda given: loses(Path(given[0]), given[1] == "guarded"),
    "attaches": lambda given: attaches(Path(given[0])),
    "looks": lambda given: looks(Path(given[0]), len(given) > 1),
    "keeps": lambda given: keeps(Path(given[0])),
    "stops": lambda given: stops(given[0]),
    "holds": lambda given: holds(Path(given[0])),
}

if __name__ == "__main__":
    asyncio.run(PROGRAMS[sys.argv[1]](sys.argv[2:]))
