"""The tables of views in another database, in place of those beside the log: `--database`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import click
import msgspec

from ensue.app.urls import open_target
from ensue.cli.target import OpenLog, Target, opened
from ensue.errors import ApplyFailed, EnsueError
from ensue.events.stored import Draft
from ensue.store.base import Consumer, Request, SqlTransaction, Store, WriterTransaction, Written
from ensue.store.target import Target as Rows
from ensue.world import World

__all__ = ["database_option", "opened_beside"]

C = TypeVar("C", bound=Callable[..., Any])


class _Beside:
    """The log's store, whose tables and transactions are those of another database."""

    def __init__(self, store: Store, rows: Rows, world: World) -> None:
        self._store = store
        self._world = world
        self._rows = rows
        self.dialect = rows.dialect

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def consumers(self) -> tuple[Consumer, ...]:
        """None keeps what is there."""
        return ()

    async def room(self) -> None:
        """Nothing is queued."""

    async def select(self, sql: str, values: Sequence[object] = (), /) -> list[tuple[Any, ...]]:
        return await self._rows.select(sql, values)

    def write(self, request: Request) -> asyncio.Future[Written]:
        """Run the functions of a request there. It has nothing else."""
        assert not request.events
        return self._world.spawn(self._write(request), name="ensue rows")

    async def _write(self, request: Request) -> Written:
        def run(sql: SqlTransaction) -> None:
            for function in request.apply:
                emitted: Sequence[Draft] = function(cast(WriterTransaction, sql))
                assert not emitted

        try:
            await self._rows.transact(run)
        except EnsueError:
            raise
        except Exception as error:
            raise ApplyFailed(str(error), unit=0) from error
        return Written(1, 0)


def database_option(command: C) -> C:
    """The option that says which database the rows are in, before or behind the name of a subcommand."""
    return click.option(
        "--database",
        metavar="URL",
        help="Another database, where the views with this database= are.",
        expose_value=False,
        callback=_choose,
    )(command)


def _choose(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.meta[f"{__name__}.database"] = value


@asynccontextmanager
async def opened_beside(target: Target, *, write: bool = False) -> AsyncGenerator[OpenLog, None]:
    """As `opened`; where a database is named, with its tables in place of those beside the log."""
    url = click.get_current_context().meta.get(f"{__name__}.database")
    async with opened(target, write=write) as log:
        if url is None:
            yield log
            return
        rows = open_target(url)
        await rows.open(log.world)
        try:
            store = cast(Store, _Beside(log.store, rows, log.world))
            yield msgspec.structs.replace(log, store=store, url=f"{log.url} in {rows.shown}")
        finally:
            await rows.close()
