"""Taking what was deleted or changed out of a log's files as well."""

from __future__ import annotations

import asyncio

import apsw

from ensue.world import World

__all__ = ["empty_wal"]

PATIENCE_MILLISECONDS = 1_000


async def empty_wal(path: str, world: World) -> None:
    """Copy the write-ahead file into the database and cut it to nothing, on a thread. Where somebody reads or writes all the while,
    nothing is cut: a later commit then begins the file anew, over what is there."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def empty() -> None:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.set_busy_timeout(PATIENCE_MILLISECONDS)
            connection.pragma("schema_version")  # one that has read nothing knows of no write-ahead file
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            connection.close()

    def emptied(_: object, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None or isinstance(error, apsw.BusyError | apsw.LockedError):
            done.set_result(None)
        else:
            done.set_exception(error)

    threads = world.threads(1, name="ensue erase")
    try:
        threads.run(empty, emptied)
        await done
    finally:
        threads.close()
