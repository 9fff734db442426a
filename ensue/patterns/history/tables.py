"""Files with a row for each event: CSV, JSON lines, Parquet. From their columns to typed events with times.

What a row cannot be is said with its line, and the next one is read.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

import msgspec

from ensue.errors import DefinitionError, InvalidEvent
from ensue.events.message import Event, declaration
from ensue.events.recorded import instant
from ensue.patterns.history.rows import EventMaker, Unit, time_of

__all__ = ["Columns", "Line", "Progress", "Table", "Unread", "Used", "columns_used", "lines_of", "open_table"]

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how much is done, and of how much."""
CHUNK = 10_000
"""So many rows are read between two looks at how far it is."""
TIME_COLUMNS = ("time", "timestamp")


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """What the columns of a table are. A field is read from the column of its name, unless it says otherwise here."""

    time: str | None = None
    """The column with the time; without it that of the field with the event's own time, else `time` or `timestamp`, whichever is there."""
    key: str | None = None
    """The column with the key."""
    event: type[Event] | None = None
    """The type of all rows; without it the only one that the pattern looks at."""
    kind: str | None = None
    """The column that names the type of each row, as its class or as it is stored. Rows of other types are passed over."""
    fields: Mapping[str, str] = {}
    """From a field to its column."""
    values: Mapping[str, str] = {}
    """From a field to its value in every row."""
    timezone: tzinfo | None = None
    """Of times without an offset."""
    unit: Unit | None = None
    """Of times that are numbers."""


class Unread(msgspec.Struct, frozen=True):
    """A row that could not be read. `line` counts from 1; of CSV and JSON lines it is the line in the file, of Parquet the row."""

    line: int
    reason: str


class Line(msgspec.Struct, frozen=True, gc=False):
    """A row that was read. `event` is None where its type is none of the pattern's."""

    line: int
    time: int
    event: Event | None


class Table:
    """A file of rows. It can be read again from the beginning."""

    def __init__(
        self, file: Path, rows: Callable[[Path, Progress], Iterator[tuple[int, Mapping[str, Any] | Unread]]]
    ) -> None:
        self.file = file
        self._rows = rows

    def rows(self, progress: Progress | None = None) -> Iterator[tuple[int, Mapping[str, Any] | Unread]]:
        """Each row with its line: its cells by column. Errors: `DefinitionError` for a text that is not UTF-8, or has no heading."""
        try:
            yield from self._rows(self.file, progress or _silent)
        except UnicodeDecodeError as error:
            raise DefinitionError(f"{self.file.name} is not UTF-8: {error.reason} at byte {error.start}") from None


def _silent(done: int, total: int) -> None:
    pass


def open_table(file: str | Path) -> Table:
    """A table by the ending of its file: `.csv`, `.tsv`, `.jsonl`, `.ndjson`, all also with `.gz`, and `.parquet`. Errors: `DefinitionError`
    for another one; `OSError`."""
    path = Path(file)
    ending = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    rows = {"csv": _csv, "tsv": _csv, "jsonl": _json_lines, "ndjson": _json_lines, "parquet": _parquet}.get(ending)
    if rows is None:
        raise DefinitionError(
            f"{path.name} is of no kind that can be read: .csv, .tsv, .jsonl, .ndjson (also with .gz), .parquet; a log is named by its URL"
        )
    path.stat()
    return Table(path, rows)


def _opened(file: Path) -> tuple[IO[bytes], IO[str]]:
    """The file as it is, and the text in it."""
    raw = file.open("rb")
    if not file.name.lower().endswith(".gz"):
        return raw, io.TextIOWrapper(raw, encoding="utf-8-sig", errors="strict", newline="")
    return raw, io.TextIOWrapper(gzip.GzipFile(fileobj=raw), encoding="utf-8-sig", errors="strict", newline="")


def _csv(file: Path, progress: Progress) -> Iterator[tuple[int, Mapping[str, Any] | Unread]]:
    size = file.stat().st_size
    raw, text = _opened(file)
    with raw, text:
        first = text.readline()
        delimiter = max(",;\t", key=first.count)
        names = next(csv.reader([first], delimiter=delimiter), [])
        if len(set(names)) < len(names) or not names:
            raise DefinitionError(
                f"{file.name}: the first line must name the columns, each once; it is {first.strip()[:200]!r}"
            )
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 2  # the heading is line 1; a quoted cell may have several
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                yield line, Unread(line, f"it is no CSV: {error}")
                continue
            if not cells:
                continue
            if len(cells) != len(names):
                yield line, Unread(line, f"it has {len(cells)} cells, and the heading {len(names)}")
                continue
            yield line, dict(zip(names, cells, strict=True))
            if line % CHUNK == 0:
                progress(raw.tell(), size)
    progress(size, size)


def _json_lines(file: Path, progress: Progress) -> Iterator[tuple[int, Mapping[str, Any] | Unread]]:
    size = file.stat().st_size
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    raw, text = _opened(file)
    with raw, text:
        for line, written in enumerate(text, 1):
            if not written.strip():
                continue
            try:
                yield line, decode(written)
            except msgspec.DecodeError as error:
                yield line, Unread(line, f"it is no JSON object: {error}")
            if line % CHUNK == 0:
                progress(raw.tell(), size)
    progress(size, size)


def _parquet(file: Path, progress: Progress) -> Iterator[tuple[int, Mapping[str, Any] | Unread]]:
    import pyarrow as arrow  # pyright: ignore[reportMissingTypeStubs]
    from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]

    with parquet.ParquetFile(file) as opened:
        total, line = opened.metadata.num_rows, 0
        for batch in opened.iter_batches(CHUNK):
            columns: dict[str, Sequence[Any]] = {}
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                exact = arrow.types.is_timestamp(column.type) and column.type.unit == "ns"
                columns[name] = (
                    column.cast(arrow.timestamp("us", column.type.tz), safe=False) if exact else column
                ).to_pylist()
            for cells in zip(*columns.values(), strict=True):
                line += 1
                yield line, dict(zip(columns, cells, strict=True))
            progress(line, total)


# -------------------------------------------------------------------------------------------------------- to events


def lines_of(
    table: Table,
    columns: Columns,
    types: Sequence[type[Event]],
    key_tag: str | None,
    progress: Progress | None = None,
) -> Iterator[Line | Unread]:
    """Each row as an event with its time. Errors: `DefinitionError` for columns that are not there, or where it is not said which
    type the rows are."""
    shaping: _Shaping | None = None
    for line, cells in table.rows(progress):
        if isinstance(cells, Unread):
            yield cells
            continue
        if shaping is None:
            shaping = _Shaping(table.file.name, columns, types, key_tag, tuple(cells))
        try:
            yield shaping.line(line, cells)
        except InvalidEvent as error:
            yield Unread(line, str(error))


class Used(NamedTuple):
    """Of events of one type: which field is in which column, which column is the time, and the field with the key."""

    event: type[Event]
    where: tuple[tuple[str, str], ...]
    time: str
    key: str | None


def columns_used(
    table: Table, columns: Columns, types: Sequence[type[Event]], key_tag: str | None, known: tuple[str, ...]
) -> Used | None:
    """What is read of a table with these columns where all its rows are of one type and every field is a column; else None. Errors:
    as `lines_of`."""
    if columns.kind is not None or columns.values:
        return None
    shaping = _Shaping(table.file.name, columns, types, key_tag, known)
    return shaping.used()


class _Shaping:
    """From cells to events, by what the first row has."""

    def __init__(
        self, name: str, columns: Columns, types: Sequence[type[Event]], key_tag: str | None, known: tuple[str, ...]
    ) -> None:
        self._name, self._columns, self._key_tag, self._known = name, columns, key_tag, known
        self._types = types
        self._time = self._time_column()
        self._kinds: dict[str, type[Event]] = {}
        if columns.kind is not None:
            self._there(columns.kind, "the type")
            self._kinds = {one.__name__: one for one in types} | {declaration(one).name: one for one in types}
        elif columns.event is None and len(types) > 1:
            raise DefinitionError(
                f"{name}: rows may be {' or '.join(one.__name__ for one in types)}; say which they are, event=, or which column "
                f"names the type, kind=; the columns are: {', '.join(known)}"
            )
        self._event = columns.event or types[0]
        self._makers: dict[type[Event], tuple[EventMaker, tuple[tuple[str, str], ...], str | None]] = {}

    def _time_column(self) -> str:
        if self._columns.time is not None:
            self._there(self._columns.time, "the time")
            return self._columns.time
        own = {declaration(one).time for one in ((self._columns.event,) if self._columns.event else self._types)}
        found = [one for one in own if one in self._known] or [one for one in TIME_COLUMNS if one in self._known]
        if len(found) != 1:
            raise DefinitionError(
                f"{self._name}: say which column is the time, time=; the columns are: {', '.join(self._known)}"
            )
        return found[0]

    def _there(self, column: str, what: str) -> None:
        if column not in self._known:
            raise DefinitionError(
                f"{self._name}: {what} is not in a column {column!r}; the columns are: {', '.join(self._known)}"
            )

    def _maker(self, event: type[Event]) -> tuple[EventMaker, tuple[tuple[str, str], ...], str | None]:
        """What makes its events, which field is in which column, and which is the time itself."""
        maker = EventMaker(event)
        declared, key = declaration(event), _key_field(event, self._key_tag)
        where: list[tuple[str, str]] = []
        own_time: str | None = None
        for field in maker.fields:
            column = self._columns.fields.get(field)
            if column is None and field == key:
                column = self._columns.key
            if field in self._columns.values:
                continue
            if column is not None:
                self._there(column, f"{event.__name__}.{field}")
                where.append((field, column))
            elif field == declared.time:
                own_time = field
            elif field in self._known:
                where.append((field, field))
            elif field in maker.required:
                raise DefinitionError(
                    f"{self._name}: no column is called {field!r}, which {event.__name__} needs; say in which it is, "
                    f"{field}=COLUMN among fields=, or its value in every row, among values=; the columns are: {', '.join(self._known)}"
                )
        return maker, tuple(where), own_time

    def used(self) -> Used | None:
        """See `columns_used`."""
        _, where, own_time = self._maker(self._event)
        fields = {field for field, _ in where}
        key = _key_field(self._event, self._key_tag)
        if own_time is not None or (key is not None and key not in fields):
            return None
        return Used(self._event, where, self._time, key if self._key_tag != "" else None)

    def line(self, line: int, cells: Mapping[str, Any]) -> Line:
        time = time_of(cells.get(self._time), timezone=self._columns.timezone, unit=self._columns.unit)
        event: type[Event] | None = self._event
        if self._columns.kind is not None:
            event = self._kinds.get(str(cells.get(self._columns.kind)))
        if event is None:
            return Line(line, time, None)
        if event not in self._makers:
            self._makers[event] = self._maker(event)
        maker, where, own_time = self._makers[event]
        values: dict[str, Any] = {field: cells[column] for field, column in where if column in cells}
        values |= self._columns.values
        if own_time is not None:
            values[own_time] = instant(time)
        return Line(line, time, maker.make(values))


def _key_field(event: type[Event], key_tag: str | None) -> str | None:
    declared = declaration(event)
    pairs = ((declared.key,) if declared.key else ()) + declared.tags
    return next((field for field, tag in pairs if key_tag in (None, "", tag)), None)
