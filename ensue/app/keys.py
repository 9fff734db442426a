"""From a URL to a store of keys; and where the keys are when nobody says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary

from ensue.errors import DefinitionError, WiringError
from ensue.store.base import Store
from ensue.store.keys import KeyRow, KeyStore, MemoryKeys
from ensue.urls import shown

__all__ = ["NO_KEYS", "keys_of_store", "open_keys"]

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
    """Where the keys of a log are when nobody says it: beside a file `shop.db` the file `shop.keys`, beside `shop.log`
    `shop.log.keys`; in the database of a log on
    PostgreSQL, a table of their own; in memory for a log in memory."""
    path: str = getattr(store, "path", "")
    if path.startswith("file:") and "vfs=memdb" in path:
        from ensue.store.sqlite.keys import SqliteKeys

        return SqliteKeys(path.replace("?vfs=memdb", "-keys?vfs=memdb"), create=create)
    if path:
        from ensue.store.sqlite.keys import SqliteKeys

        # Two logs that differ in more than this suffix have two stores; and a copy of `shop.db*` takes no keys along.
        return SqliteKeys(f"{path.removesuffix('.db')}.keys", create=create)
    if log_url is not None and urlsplit(log_url).scheme in ("postgresql", "postgres"):
        return open_keys(log_url, create=create)
    return _in_memory.setdefault(store, MemoryKeys())


class _NoKeys:
    """The store of keys where there can be none: a subject would be one for all tenants."""

    shown = "none"

    def open(self) -> None:
        """Errors: `DefinitionError`."""
        raise DefinitionError(
            "personal data is not there for tenants by tag: keys are kept by subject, and the subjects of two tenants may have the same "
            'name. Give each tenant a database of its own: url="sqlite:///data/{tenant}.db"'
        )

    def close(self) -> None:
        """See `KeyStore.close`."""

    def find(self, subjects: Sequence[bytes], /) -> Mapping[bytes, KeyRow]:
        """See `KeyStore.find`."""
        return {}

    def create(self, secrets: Mapping[str, bytes], now: int, /) -> Mapping[bytes, KeyRow]:
        """See `KeyStore.create`. Never."""
        raise AssertionError("it is not open")

    def destroy(self, subjects: Sequence[str], now: int, /) -> int:
        """See `KeyStore.destroy`. Never."""
        raise AssertionError("it is not open")

    def forgotten(self) -> Sequence[str]:
        """See `KeyStore.forgotten`."""
        return ()

    def is_empty(self) -> bool:
        """See `KeyStore.is_empty`."""
        return True


NO_KEYS: KeyStore = _NoKeys()
"""For an application whose tenants share a log."""
