"""Short ways to write and read a log on a file, and to let other processes do so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from pathlib import Path
from typing import TypeVar

from ensue.events.stored import Draft, Meta, Row, encode_meta, tag_hash
from ensue.store.base import Request, Written
from ensue.store.sqlite import SqliteStore
from ensue.world import RealWorld
from tests.servers.processes import GLANCE_SECONDS, PATIENCE_SECONDS, ServerError

T = TypeVar("T")

WORLD = RealWorld()
ROOT = Path(__file__).parents[2]


def draft(data: bytes = b"{}", *, type_name: str = "Opened", key: str = "a", tags: Sequence[str] = ()) -> Draft:
    id = WORLD.new_id()
    meta = encode_meta(Meta(WORLD.now(), id))
    return Draft(id, type_name, 1, tag_hash(f"order={key}"), tuple(map(tag_hash, tags)), meta, data)


@contextlib.asynccontextmanager
async def opened(path: Path, *, read_only: bool = False, guard: bool = True) -> AsyncGenerator[SqliteStore, None]:
    store = SqliteStore(str(path), read_only=read_only, guard=guard)
    await store.open(WORLD)
    try:
        yield store
    finally:
        await store.close()


async def append(store: SqliteStore, *data: bytes) -> Written:
    return await store.write(Request(events=[draft(one) for one in data]))


async def rows(store: SqliteStore) -> list[Row]:
    return (await store.read(limit=1_000_000)).rows


def on(path: Path, story: Callable[[SqliteStore], Awaitable[T]], *, read_only: bool = False) -> T:
    """Run the story on the log of this file, opened before and closed after."""

    async def run() -> T:
        async with opened(path, read_only=read_only) as store:
            return await story(store)

    return asyncio.run(run())


def filled(path: Path, count: int, *, size: int = 200) -> bytes:
    """A log of so many events, closed; the bytes of its file."""
    on(path, lambda store: append(store, *(b"%d" % number + b"." * size for number in range(count))))
    return path.read_bytes()


async def soon(holds: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Let the loop turn until `holds` is true. Errors: `ServerError` after a minute."""
    deadline = WORLD.monotonic() + PATIENCE_SECONDS
    while not (found if isinstance(found := holds(), bool) else await found):
        if WORLD.monotonic() > deadline:
            raise ServerError(f"waited {PATIENCE_SECONDS:.0f} s in vain: {what}")
        await WORLD.sleep(GLANCE_SECONDS)


@contextlib.contextmanager
def child(
    program: str, *arguments: object, programs: str = "tests.store.children"
) -> Generator[subprocess.Popen[str], None, None]:
    """One of the programs of `children.py`, or of another such module, running; killed at the end if it still is."""
    process = subprocess.Popen(
        [sys.executable, "-m", programs, program, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that the child says."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def rest(process: subprocess.Popen[str]) -> list[str]:
    """All that the child says until it ends well."""
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said.splitlines()


def told(program: str, *arguments: object) -> list[str]:
    """Run one of the programs; all that it says."""
    with child(program, *arguments) as process:
        return rest(process)
