"""Archives: files with the payloads of events that a log has only tombstones of. JSON lines in gzip, or Parquet.

A line, or row, says all about its event, so that a file can be read without Ensue. It ends in a count and a digest of all payloads:
a file that was cut short, or changed, is told from a whole one. `zcat` shows the first kind, because it is made of gzip members, one
for each block; to find one event only its block is read.
"""

from __future__ import annotations

import base64
import os
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from ensue.errors import CorruptLog, MissingCapability, Unavailable
from ensue.events.recorded import instant
from ensue.events.stored import Row, decode_meta
from ensue.store.archive_file import ArchiveWriter, Blocks, Digest, End, Head

__all__ = ["Archive", "Entry", "open_archive", "writer_for"]

BLOCK_BYTES = 256 * 1024
CACHED_BLOCKS = 8
_encode = msgspec.json.Encoder().encode


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event. `data` is the payload where it is one line, else `base64` has its bytes."""

    position: int
    id: str
    type: str
    type_version: int
    stream_version: int | None = None
    recorded_at: str
    time: str
    key: str | None = None
    tags: tuple[str, ...] = ()
    data: msgspec.Raw = msgspec.Raw(b"null")
    base64: str | None = None

    @classmethod
    def of(cls, row: Row, types: Mapping[int, tuple[str, int]]) -> Entry:
        meta = decode_meta(row[10])
        name, version = types[row[2]]
        one_line = b"\n" not in row[11] and b"\r" not in row[11] and row[11].strip() == row[11]
        return cls(
            position=row[0],
            id=str(UUID(bytes=row[1])) if len(row[1]) == 16 else row[1].hex(),
            type=name,
            type_version=version,
            stream_version=row[4],
            recorded_at=instant(row[5]).isoformat(),
            time=instant(meta.time).isoformat(),
            key=meta.key,
            tags=meta.tags,
            data=msgspec.Raw(row[11]) if one_line else msgspec.Raw(b"null"),
            base64=None if one_line else base64.b64encode(row[11]).decode(),
        )

    @property
    def payload(self) -> bytes:
        return bytes(self.data) if self.base64 is None else base64.b64decode(self.base64)


_decode_entry = msgspec.json.Decoder(Entry).decode


class Archive:
    """An archive that was found whole. Reading a block takes about a millisecond. Errors: `Unavailable`, when the file goes away."""

    def __init__(self, path: Path, blocks: Blocks) -> None:
        self.path = path
        self.id = bytes.fromhex(blocks.head.id)
        self.log_id = blocks.head.log_id
        self.events = blocks.end.end
        self._blocks = blocks
        self._cached: OrderedDict[int, dict[int, bytes]] = OrderedDict()

    def get(self, position: int) -> bytes | None:
        """The payload of the event at a position, if it is here."""
        number = bisect_right(self._blocks.first, position) - 1
        return self._block(number).get(position) if number >= 0 else None

    def blocks(self) -> Iterator[dict[int, bytes]]:
        """All payloads, by position, in order."""
        return (self._read(number) for number in range(len(self._blocks.first)))

    def _block(self, number: int) -> dict[int, bytes]:
        found = self._cached.get(number)
        if found is None:
            found = self._cached[number] = self._read(number)
            while len(self._cached) > CACHED_BLOCKS:
                self._cached.popitem(last=False)
        else:
            self._cached.move_to_end(number)
        return found

    def _read(self, number: int) -> dict[int, bytes]:
        try:
            return self._blocks.read(number)
        except (OSError, zlib.error, msgspec.MsgspecError) as error:
            raise Unavailable(
                f"could not read the archive {self.path}, which was whole when it was opened: {error}"
            ) from error


def open_archive(path: str | Path) -> Archive:
    """Read all of it once, to see that it is whole. Errors: `Unavailable` where there is none; `CorruptLog` for a file that is no
    archive, is cut short or was changed; `MissingCapability` for Parquet without the extra."""
    file = Path(path)
    try:
        with file.open("rb") as opened:
            begins = opened.read(4)
        blocks: Blocks = _parquet(file).ParquetBlocks(file) if begins == b"PAR1" else _LineBlocks(file)
        digest = Digest()
        for number in range(len(blocks.first)):
            for position, payload in blocks.read(number).items():
                digest.add(position, payload)
    except FileNotFoundError as error:
        raise Unavailable(f"there is no archive {file}") from error
    except OSError as error:
        raise Unavailable(f"could not read the archive {file}: {error}") from error
    except (zlib.error, msgspec.MsgspecError, ValueError, KeyError) as error:
        raise CorruptLog(f"{file} is no whole archive of events: {error}") from error
    if (digest.events, str(digest)) != (blocks.end.end, blocks.end.digest):
        raise CorruptLog(f"{file} is not as it was written: its events and its digest differ")
    return Archive(file, blocks)


def writer_for(path: Path, head: Head, suffix: str) -> ArchiveWriter:
    """A writer into this file, of the kind that the suffix of a name says. Errors: `OSError`, `MissingCapability`."""
    return _parquet(path).ParquetWriter(path, head) if suffix == ".parquet" else _LineWriter(path, head)


def _parquet(path: Path) -> Any:
    try:
        from ensue.store import parquet
    except ImportError as error:
        raise MissingCapability(f"{path} is Parquet, which needs the extra: pip install 'ensue[parquet]'") from error
    return parquet


# ------------------------------------------------------------------------------------------------------------ JSON lines


class _LineWriter:
    def __init__(self, path: Path, head: Head) -> None:
        self._file = path.open("wb")
        self._digest = Digest()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._member(_encode(head) + b"\n")

    def add(self, row: Row, types: Mapping[int, tuple[str, int]]) -> None:
        line = _encode(Entry.of(row, types)) + b"\n"
        self._digest.add(row[0], row[11])
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= BLOCK_BYTES:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._member(_encode(End(end=self._digest.events, digest=str(self._digest))) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        self._file.close()

    def _flush(self) -> None:
        if self._lines:
            self._member(b"".join(self._lines))
        self._lines, self._bytes = [], 0

    def _member(self, text: bytes) -> None:
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._file.write(packer.compress(text) + packer.flush())


class _LineBlocks:
    head: Head

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: list[tuple[int, int]] = []
        self.first: list[int] = []
        last: bytes | None = None
        for number, (offset, length, text) in enumerate(_members(path)):
            if number == 0:
                self.head = msgspec.json.decode(text, type=Head)
                continue
            if last is not None:
                raise ValueError("something stands behind its end")
            first_line = text.partition(b"\n")[0]
            if first_line.startswith(b'{"end":'):
                last = first_line
                continue
            self.first.append(_decode_entry(first_line).position)
            self._places.append((offset, length))
        if last is None:
            raise ValueError("it was cut short")
        self.end = msgspec.json.decode(last, type=End)

    def read(self, number: int) -> dict[int, bytes]:
        offset, length = self._places[number]
        with self._path.open("rb") as file:
            file.seek(offset)
            text = zlib.decompress(file.read(length), 31)
        entries = (_decode_entry(line) for line in text.split(b"\n") if line)
        return {entry.position: entry.payload for entry in entries}


def _members(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """The gzip members of a file: offset, length, contents."""
    with path.open("rb") as file:
        start, pending = 0, b""
        unpacker, parts = zlib.decompressobj(31), list[bytes]()
        while chunk := pending or file.read(65536):
            parts.append(unpacker.decompress(chunk))
            pending = b""
            if unpacker.eof:
                pending = unpacker.unused_data
                here = file.tell() - len(pending)
                yield start, here - start, b"".join(parts)
                start, unpacker, parts = here, zlib.decompressobj(31), []
        if start != file.tell():
            raise ValueError("it was cut short")
