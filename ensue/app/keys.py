"""From a URL to a store of keys; and where the keys are when nobody says it."""

from __future__ import annotations

from pathlib import PurePath
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary

from ensue.errors import WiringError
from ensue.store.base import Store
from ensue.store.keys import KeyStore, MemoryKeys
from ensue.urls import shown

__all__ = ["keys_of_store", "open_keys"]

_in_memory: WeakKeyDictionary[Store, MemoryKeys] = WeakKeyDictionary()
"""A log in memory may be closed and opened again; so may its keys."""


def open_keys(url: str, *, create: bool = True) -> KeyStore:
    """The adapter for a URL, not yet opened: `sqlite:///shop.keys`, `postgresql://user@host/database`, `memory:`. Without `create`
    there must be one. Errors: `WiringError`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise WiringError("the URL of the keys cannot be read; one looks like sqlite:///shop.keys") from None
    if parts.scheme == "memory":
        return MemoryKeys()
    if parts.scheme in ("postgresql", "postgres"):
        try:
            from ensue.store.postgresql.keys import PostgresqlKeys
        except ModuleNotFoundError as error:
            if error.name != "psycopg":
                raise
            raise WiringError(
                f"the keys at {shown(url)} need a driver that is not installed: pip install 'ensue[postgresql]'"
            ) from None
        return PostgresqlKeys(url, create=create)
    path = unquote(parts.path).removeprefix("/")
    if parts.scheme == "sqlite" and path and not (parts.netloc or parts.query or parts.fragment or "\0" in path):
        from ensue.store.sqlite.keys import SqliteKeys

        return SqliteKeys(path, create=create)
    raise WiringError(
        f"no store of keys for the URL {shown(url)}: it is sqlite:///shop.keys, postgresql://user@host/database or memory:"
    )


def keys_of_store(log_url: str | None, store: Store, *, create: bool = True) -> KeyStore:
    """Where the keys of a log are when nobody says it: beside a file `shop.db` the file `shop.keys`; in the database of a log on
    PostgreSQL, a table of their own; in memory for a log in memory."""
    path: str = getattr(store, "path", "")
    if path.startswith("file:") and "vfs=memdb" in path:
        from ensue.store.sqlite.keys import SqliteKeys

        return SqliteKeys(path.replace("?vfs=memdb", "-keys?vfs=memdb"), create=create)
    if path:
        from ensue.store.sqlite.keys import SqliteKeys

        return SqliteKeys(str(PurePath(path).with_suffix(".keys")), create=create)
    if log_url is not None and urlsplit(log_url).scheme in ("postgresql", "postgres"):
        return open_keys(log_url, create=create)
    return _in_memory.setdefault(store, MemoryKeys())
