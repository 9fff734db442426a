"""What every kind of archive file has: a head, blocks of payloads, an end; and how it is written and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Protocol

import msgspec

from ensue.events.stored import Row

__all__ = ["ArchiveWriter", "Blocks", "Digest", "End", "Head"]


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says about itself first. `id` is that of the archive, in tombstones as well."""

    ensue_archive: int = 1
    id: str
    log_id: str
    made_at: str


class End(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says last."""

    end: int
    """How many events are in it."""
    digest: str


class Digest:
    """Over positions and payloads, in order."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)
        self.events = 0

    def add(self, position: int, payload: bytes) -> None:
        self._hash.update(b"%d %d " % (position, len(payload)))
        self._hash.update(payload)
        self.events += 1

    def __str__(self) -> str:
        return self._hash.hexdigest()


class ArchiveWriter(Protocol):
    """A file that is being written. It is whole, and on disk, when `finish` returns."""

    def add(self, row: Row, types: Mapping[int, tuple[str, int]]) -> None:
        """Rows come in the order of their positions."""
        ...

    def finish(self) -> None: ...

    def close(self) -> None:
        """Give it up, unless it is finished."""
        ...


class Blocks(Protocol):
    """A file that can be read."""

    @property
    def head(self) -> Head: ...

    @property
    def first(self) -> Sequence[int]:
        """The first position of each block, ascending."""
        ...

    @property
    def end(self) -> End: ...

    def read(self, number: int) -> dict[int, bytes]:
        """The payloads of a block by position, in their order."""
        ...
