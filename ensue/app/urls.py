"""From a URL to an adapter: the only place that names them."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, unquote, urlsplit

from ensue.errors import Unavailable, WiringError
from ensue.store.base import Store
from ensue.store.steps import Upgrade
from ensue.urls import shown

if TYPE_CHECKING:
    from pathlib import Path

    from ensue.store.target import Target
    from ensue.store.transfer import Transfer
    from ensue.world import World

__all__ = ["bring_up_to_date", "log_exists", "logs_in", "open_store", "open_target", "open_transfer", "shown"]

_POSTGRESQL = ("postgresql", "postgres")
_SIDE_FILES = ("-wal", "-shm", "-lock", "-journal")


def open_store(url: str, *, read_only: bool = False) -> Store:
    """The adapter for a URL, not yet opened. `sqlite:///file.db` (relative to the current folder), `sqlite:////absolute`,
    `postgresql://user@host/database` with any parameters of libpq, or `memory:`. With `read_only` it neither creates nor writes
    anything.
    Errors: `WiringError` for a scheme that no adapter has."""
    parts = _split(url)
    if parts.scheme == "memory":
        from ensue.store.memory import MemoryStore

        return MemoryStore()
    if parts.scheme in _POSTGRESQL:
        return _postgresql(url, read_only)
    if parts.scheme == "sqlite":
        from ensue.store.sqlite import SqliteStore

        return SqliteStore(_path(url, parts), read_only=read_only)
    raise _no_adapter(url, parts)


def open_transfer(url: str) -> Transfer:
    """The place at a URL as one side of a copy, not yet opened. Errors: `WiringError`, also for a log in memory, which is of
    one process only."""
    parts = _split(url)
    if parts.scheme == "sqlite":
        from ensue.store.sqlite.transfer import SqliteTransfer

        return SqliteTransfer(_path(url, parts))
    if parts.scheme in _POSTGRESQL:
        with _driver_of(url):
            from ensue.store.postgresql.transfer import PostgresqlTransfer

        return PostgresqlTransfer(url)
    if parts.scheme == "memory":
        raise WiringError(
            "a log in memory is gone with its process: there is nothing to copy, and nothing would be kept"
        )
    raise _no_adapter(url, parts)


def open_target(url: str) -> Target:
    """The database at a URL as a place for rows, not yet opened. Errors: `WiringError`, also for `memory:`."""
    from ensue.store.target import ThreadedTarget

    parts = _split(url)
    if parts.scheme in _POSTGRESQL:
        with _driver_of(url):
            from ensue.store.postgresql.target import PostgresqlDriver

        return ThreadedTarget(PostgresqlDriver(url))
    if parts.scheme == "sqlite":
        from ensue.store.sqlite.target import SqliteDriver

        return ThreadedTarget(SqliteDriver(_path(url, parts)))
    if parts.scheme == "memory":
        raise WiringError('rows in the memory of each process need no database: @app.view(when="live")')
    raise _no_adapter(url, parts)


async def bring_up_to_date(url: str, world: World, *, dry_run: bool = False) -> Upgrade:
    """Take the steps that the tables of the log at a URL lack, or with `dry_run` only say which. Errors: `WiringError`,
    `Unavailable` where there is no file, those of `Log.open`."""
    parts = _split(url)
    if parts.scheme in _POSTGRESQL:
        _postgresql(url, True)
        from ensue.store.postgresql.schema import bring_up_to_date

        return await bring_up_to_date(url, dry_run=dry_run)
    if parts.scheme == "memory":
        raise WiringError("a log in memory is of one process, and made by it: there is nothing to bring up to date")
    store = open_store(url, read_only=dry_run)
    if not log_exists(url):
        raise Unavailable(f"there is no log at {shown(url)}; a file is made when an application first runs on it")
    from ensue.store.sqlite.schema import missing_steps

    found, steps = missing_steps(_path(url, parts))
    await store.open(world)  # which takes them, unless it opens for reading only
    await store.close()
    return Upgrade(found, steps)


def _no_adapter(url: str, parts: SplitResult) -> WiringError:
    advice = "other databases come later"
    if not parts.scheme:
        advice = f"with a scheme it is a file: sqlite:///{url}"
    elif "+" in parts.scheme:
        advice = f"no driver is named: {parts.scheme.partition('+')[0]}://…"
    return WiringError(
        f"no store for the URL {shown(url)}: this version knows sqlite:///file.db, sqlite:////absolute/file.db, "
        f"postgresql://user@host/database and memory:; {advice}"
    )


def _postgresql(url: str, read_only: bool) -> Store:
    with _driver_of(url):
        from ensue.store.postgresql import PostgresqlStore

    return PostgresqlStore(url, read_only=read_only)


@contextmanager
def _driver_of(url: str) -> Generator[None, None, None]:
    """Errors: `WiringError` where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise WiringError(
            f"the URL {shown(url)} needs a driver that is not installed: pip install 'ensue[postgresql]'"
        ) from None


def _path(url: str, parts: SplitResult) -> str:
    path = unquote(parts.path).removeprefix("/")
    if parts.netloc or not path or parts.query or parts.fragment or "\0" in path:
        raise WiringError(
            f"the URL {shown(url)} is not of the form sqlite:///file.db (in the current folder) or "
            "sqlite:////absolute/file.db; in the file's name write ? as %3F and # as %23"
        )
    if path == ":memory:":
        raise WiringError(f"{url} would be a file of that name; the log in memory is called memory:")
    return path


def log_exists(url: str) -> bool:
    """Whether there may be a log to open: its file is there and not empty; of a server only opening it tells. A log in memory
    never is. Errors: `WiringError`."""
    parts = _split(url)
    if parts.scheme in _POSTGRESQL:
        return True
    path = _path(url, parts) if parts.scheme == "sqlite" else ""
    return os.path.isfile(path) and os.path.getsize(path) > 0


def logs_in(folder: Path) -> list[str]:
    """The URLs of the log files of a folder, by name, relative to it."""
    from ensue.store.sqlite.schema import is_log

    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.endswith(_SIDE_FILES))
    return [f"sqlite:///{quote(path.name)}" for path in files if is_log(str(path))]


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        pass
    # Nothing of it is shown, nor of the error: what cannot be read may hold a password anywhere.
    raise WiringError(
        "the URL of the log cannot be read; one looks like sqlite:///file.db, or postgresql://user@host/database with %-escapes "
        "for what is not a letter or digit"
    )
