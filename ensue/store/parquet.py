"""Archives in Parquet: a row for each event, a row group for each block, its head and end in the file's own metadata."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pyarrow as arrow  # pyright: ignore[reportMissingTypeStubs]
from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]

from ensue.events.recorded import instant
from ensue.events.stored import Row, decode_meta
from ensue.store.archive_file import Digest, End, Head

__all__ = ["ParquetBlocks", "ParquetWriter"]

ROWS, BYTES = 5_000, 4 * 1024 * 1024
"""Of a row group: whichever comes first."""
_HEAD, _END = b"ensue_archive", b"ensue_end"
_TIME = arrow.timestamp("us", tz="UTC")
_FIELDS: dict[str, Any] = {
    "position": arrow.int64(),
    "id": arrow.string(),
    "type": arrow.string(),
    "type_version": arrow.int32(),
    "stream_version": arrow.int64(),
    "recorded_at": _TIME,
    "time": _TIME,
    "key": arrow.string(),
    "tags": arrow.list_(arrow.string()),
    "data": arrow.binary(),
}


class ParquetWriter:
    """See `ensue.store.archive_file.ArchiveWriter`."""

    def __init__(self, path: Path, head: Head) -> None:
        self._file = path.open("wb")
        self._schema = arrow.schema(list(_FIELDS.items()), metadata={_HEAD: msgspec.json.encode(head)})
        self._writer: Any = parquet.ParquetWriter(self._file, self._schema, compression="zstd")
        self._digest = Digest()
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def add(self, row: Row, types: Mapping[int, tuple[str, int]]) -> None:
        meta = decode_meta(row[10])
        id = str(UUID(bytes=row[1])) if len(row[1]) == 16 else row[1].hex()
        place = (row[4], instant(row[5]), instant(meta.time), meta.key, list(meta.tags), row[11])
        self._rows.append((row[0], id, *types[row[2]], *place))
        self._digest.add(row[0], row[11])
        self._bytes += len(row[11])
        if len(self._rows) >= ROWS or self._bytes >= BYTES:
            self._flush()

    def finish(self) -> None:
        self._flush()
        end = End(end=self._digest.events, digest=str(self._digest))
        self._writer.add_key_value_metadata({_END: msgspec.json.encode(end)})
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        if not self._file.closed:
            with contextlib.suppress(Exception):  # it is given up, and what it would still write is of no use
                self._writer.close()
            self._file.close()

    def _flush(self) -> None:
        if self._rows:
            columns = [
                arrow.array(column, kind)
                for column, kind in zip(zip(*self._rows, strict=True), _FIELDS.values(), strict=True)
            ]
            self._writer.write_table(arrow.Table.from_arrays(columns, schema=self._schema))
        self._rows, self._bytes = [], 0


class ParquetBlocks:
    """See `ensue.store.archive_file.Blocks`. Errors: `ValueError`, `KeyError`, `OSError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._opened() as file:
            said: Mapping[bytes, bytes] = file.metadata.metadata or {}
            self.head = msgspec.json.decode(said[_HEAD], type=Head)
            self.end = msgspec.json.decode(said[_END], type=End)
            self.first = [
                file.read_row_group(number, columns=["position"]).column(0)[0].as_py()
                for number in range(file.num_row_groups)
            ]

    def read(self, number: int) -> dict[int, bytes]:
        with self._opened() as file:
            found = file.read_row_group(number, columns=["position", "data"])
        return dict(zip(found.column("position").to_pylist(), found.column("data").to_pylist(), strict=True))

    def _opened(self) -> Any:
        try:
            return parquet.ParquetFile(self._path)
        except arrow.ArrowInvalid as error:
            raise ValueError(str(error)) from error
