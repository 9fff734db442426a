"""From a URL to an adapter: the only place that names them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ensue.errors import WiringError
from ensue.store.base import Store

__all__ = ["logs_in", "open_store", "shown"]

_SIDE_FILES = ("-wal", "-shm", "-lock", "-journal")


def open_store(url: str, *, read_only: bool = False) -> Store:
    """The adapter for a URL, not yet opened. `sqlite:///file.db` (relative to the current folder), `sqlite:////absolute`,
    or `memory:`. With `read_only` it neither creates nor writes anything.
    Errors: `WiringError` for a scheme that no adapter has."""
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
        return SqliteStore(path, read_only=read_only)
    raise WiringError(
        f"no store for the URL {shown(url)}: this version knows sqlite:///file.db and memory:. A file's name needs the "
        "scheme: sqlite:///shop.db"
    )


def logs_in(folder: Path) -> list[str]:
    """The URLs of the log files of a folder, by name, relative to it."""
    from ensue.store.sqlite.schema import is_log

    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.endswith(_SIDE_FILES))
    return [f"sqlite:///{quote(path.name)}" for path in files if is_log(str(path))]


def shown(url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(url)
    return url if parts.password is None else url.replace(f":{parts.password}@", ":…@")
