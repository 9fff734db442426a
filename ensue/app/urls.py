"""From a URL to an adapter: the only place that names them."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from ensue.errors import WiringError
from ensue.store.base import Store

__all__ = ["open_store", "shown"]


def open_store(url: str) -> Store:
    """The adapter for a URL, not yet opened. `sqlite:///file.db` (relative to the current folder), `sqlite:////absolute`,
    or `memory:`. Errors: `WiringError` for a scheme that no adapter has."""
    parts = urlsplit(url)
    if parts.scheme == "memory":
        from ensue.store.memory import MemoryStore

        return MemoryStore()
    if parts.scheme == "sqlite":
        from ensue.store.sqlite import SqliteStore

        path = unquote(parts.path).removeprefix("/")
        if parts.netloc or not path or parts.query:
            raise WiringError(
                f"the URL {shown(url)} is not of the form sqlite:///file.db or sqlite:////absolute/file.db"
            )
        return SqliteStore(path)
    raise WiringError(
        f"no store for the URL {shown(url)}: this version knows sqlite:///file.db and memory:. A file's name needs the "
        "scheme: sqlite:///shop.db"
    )


def shown(url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(url)
    return url if parts.password is None else url.replace(f":{parts.password}@", ":…@")
