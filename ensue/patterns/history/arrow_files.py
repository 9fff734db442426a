"""Parquet files whose every row can be read as an event, known from the columns alone: they need not be read row by row.

Where that is not certain (a text for a number, a null, a key that may be empty) nothing is said, and the rows are read one by one, so that
what is wrong with each is told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as arrow  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray
from pyarrow import compute as _compute  # pyright: ignore[reportMissingTypeStubs]
from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]

from ensue.events.message import Event
from ensue.events.personal import personal_fields

__all__ = ["Whole", "read_whole"]

_functions: Any = _compute
"""Its functions are made when it is imported, so that no type checker knows them."""


class Whole(NamedTuple):
    """A table with a column for each field, and the times of its rows, in microseconds."""

    table: Any
    times: NDArray[np.int64]


def read_whole(file: Path, event: type[Event], where: dict[str, str], time: str, key: str | None) -> Whole | None:
    """The columns of a file, by the fields that they are for (`where`), if each row is an event of this type for certain; else None. `key` is
    the field with the key."""
    if personal_fields(event):
        return None
    with parquet.ParquetFile(file) as opened:
        read = opened.read(columns=[*dict.fromkeys((*where.values(), time))])
    times = _times(read.column(time))
    kinds = {info.name: info.type for info in msgspec.structs.fields(event)}
    if times is None or not all(_is_just(kinds[field], read.column(column)) for field, column in where.items()):
        return None
    if key is not None and not _has_all_keys(read.column(where[key])):
        return None
    return Whole(arrow.table({field: read.column(column) for field, column in where.items()}), times)


def _times(column: Any) -> NDArray[np.int64] | None:
    kind: Any = column.type
    if not arrow.types.is_timestamp(kind) or kind.tz is None or column.null_count:
        return None
    micros = column.cast(arrow.timestamp("us", kind.tz), safe=False).cast(arrow.int64())
    found: NDArray[np.int64] = micros.combine_chunks().to_numpy(zero_copy_only=False)
    return found


def _is_just(declared: object, column: Any) -> bool:
    """Whether all its values are of the field's type as they are."""
    kind: Any = column.type
    if column.null_count:
        return False
    if declared is str:
        return bool(arrow.types.is_string(kind) or arrow.types.is_large_string(kind))
    if declared is int:
        return bool(arrow.types.is_integer(kind))
    if declared is float:
        return bool(arrow.types.is_floating(kind))
    return declared is bool and bool(arrow.types.is_boolean(kind))


def _has_all_keys(column: Any) -> bool:
    """Whether none is empty, or too long to be one."""
    kind: Any = column.type
    if arrow.types.is_integer(kind):
        return True
    if not len(column):
        return True
    lengths: Any = _functions.min_max(_functions.utf8_length(column))
    return bool(lengths["min"].as_py() > 0 and lengths["max"].as_py() <= 512)
