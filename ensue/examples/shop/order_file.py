"""Real order lines from a CSV file, plain or gzipped: what is an order, what cancels one, what is neither.

An invoice is an order; one whose number begins with C is a cancellation. Lines that can be neither are rejected, each with
a reason, and none is passed over: every record of the file, a blank line too, is in exactly one `Invoice`.

The lines of an invoice need not be adjacent, and an order must be whole. So the file is read twice: first to its end, which
finds the last line of each invoice and whatever is wrong with the file as a whole; then again, and each invoice is given out
at its last line. Memory holds one number for each invoice, and the lines of the invoices that are open. A file that cannot
be read to its end is refused before anything of it is used: where it was cut, an order may be cut too.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from ensue import Event
from ensue.examples.shop.events import ORDER_LINES, Line, LineRejected, OrderCancelled, OrderPlaced, exact, total_of

__all__ = ["COLUMNS", "BadFile", "Invoice", "OrderFile", "Record"]

COLUMNS = ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")

_USED = ("InvoiceNo", "StockCode", "Quantity", "UnitPrice", "CustomerID", "Country", "InvoiceDate")
GOODS = re.compile(r"[0-9]{5}[A-Za-z]{0,3}")
"""Stock codes of goods. The others are postage, fees, discounts, vouchers, samples and corrections made by hand."""
LONGEST_LINE = 1_000_000
LONGEST = 400
"""Characters of the fields that go into an event together; the description, which does not, may be longer."""
NUMBER_DIGITS = 1_000
"""Digits before and after the point up to which a number is taken as one."""
LARGEST = 10**9
PRICE_CHARACTERS = 40


class BadFile(Exception):
    """The file cannot be read as order lines. Nothing of it was used; what earlier runs placed stays."""


class Record(NamedTuple):
    """One record of the file. `number` is the line it begins at, the header's being 1; `width` its number of fields."""

    number: int
    width: int
    invoice: str
    sku: str
    quantity: str
    unit_price: str
    customer: str
    country: str
    date: str


class Invoice:
    """Records that belong together. One that has no invoice number is alone."""

    def __init__(self, number: str, idempotency_key: str) -> None:
        self.number = number
        self.idempotency_key = idempotency_key
        """The same whenever the same invoice comes again, in whatever file."""
        self.first_line = self.last_line = 0
        self.records = 0
        self.lines: list[Line] = []
        self.rejected: list[LineRejected] = []
        self._described: Record | None = None

    @property
    def cancels(self) -> bool:
        return self.number[:1] in ("C", "c")

    @property
    def content(self) -> str:
        """A digest of all its lines."""
        return blake2b(repr((self.lines, self.rejected)).encode(), digest_size=16).hexdigest()

    def add(self, record: Record, width: int) -> None:
        """Take the record as a line of the order, or reject it."""
        self.first_line = self.first_line or record.number
        self.last_line = record.number
        self.records += 1
        quantity, price = _number(record.quantity), _number(record.unit_price)
        reason = _why_not(record, width, quantity, price, cancels=self.cancels)
        if reason is None and len(self.lines) == ORDER_LINES:
            reason = f"an order has at most {ORDER_LINES} lines"
        if reason is not None:
            self.rejected.append(_rejected(record, quantity, price, reason))
            return
        assert quantity is not None
        assert price is not None
        self.lines.append(Line(record.sku, abs(int(quantity)), price))
        self._described = self._described or record

    def events(self) -> list[Event]:
        """The order or cancellation, if any line is left for it, and the rejected lines."""
        if self._described is None:
            return list(self.rejected)
        record = self._described
        kind: type[OrderPlaced | OrderCancelled] = OrderCancelled if self.cancels else OrderPlaced
        order = kind(
            order_id=self.number,
            customer_id=record.customer or None,
            country=record.country,
            ordered_at=record.date,
            lines=tuple(self.lines),
            total=total_of(self.lines),
        )
        return [order, *self.rejected]

    def refused(self) -> list[LineRejected]:
        """All lines rejected: the invoice was taken before, with other lines."""
        sign = -1 if self.cancels else 1
        again = [
            LineRejected(
                order_id=self.number,
                sku=line.sku,
                quantity=str(sign * line.quantity),
                unit_price=str(line.unit_price),
                amount=exact.multiply(sign * line.quantity, line.unit_price),
                reason="its invoice was taken before, with other lines",
            )
            for line in self.lines
        ]
        return [*again, *self.rejected]


class OrderFile:
    """The invoices of a file, each at its last line. Errors: `BadFile`, before the first one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.name.encode(errors="replace").decode()
        """As a text, also where the file system holds bytes that are none."""
        self.lines = 0
        """How many records the file has."""
        self._last: dict[str, int] = {}
        for _, fields in self._records():
            self.lines += 1
            self._last[fields[self._columns[0]].strip() if len(fields) > self._columns[0] else ""] = self.lines

    def __iter__(self) -> Iterator[Invoice]:
        opened: dict[str, Invoice] = {}
        alone: dict[bytes, int] = {}
        for count, (line, fields) in enumerate(self._records(), 1):
            record = self._record(line, fields)
            number = record.invoice
            if not number:
                yield self._alone(record, alone)
                continue
            invoice = opened.get(number)
            if invoice is None:
                invoice = opened[number] = Invoice(number, f"invoice {number}")
            invoice.add(record, self._width)
            if self._last.get(number) == count:
                yield opened.pop(number)
        if opened:
            raise BadFile(
                f"{self.path} changed while it was read: the end of invoice {next(iter(opened))} is gone. Run again"
            )

    def _alone(self, record: Record, seen: dict[bytes, int]) -> Invoice:
        """A record without an invoice, known again by what it says and how often that was said before."""
        content = blake2b(repr(record[1:]).encode(), digest_size=16)
        seen[content.digest()] = times = seen.get(content.digest(), 0) + 1
        invoice = Invoice("", f"line {content.hexdigest()} {times}")
        invoice.add(record, self._width)
        return invoice

    # ------------------------------------------------------------------------------------------------------ reading

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """The line each record begins at, and its fields. Errors: `BadFile`, naming the line."""
        lines = _Lines(self.path)
        reader = csv.reader(lines)
        try:
            header = next(reader, None)
            self._columns = _columns(self.path, header)
            self._pick = itemgetter(*self._columns)
            self._width = width = len(header or ())
            began = lines.number + 1
            for fields in reader:
                if lines.ended or (len(fields) < width and fields and not lines.whole):
                    raise BadFile(
                        f"{self.path}, line {began}: the file ends inside this line, where {width} fields were expected. "
                        "Nothing of the file was used: get it whole and run again"
                    )
                yield began, fields
                began = lines.number + 1
        except csv.Error as error:
            raise BadFile(
                f"{self.path}, line {lines.number}: {error}. A CSV file with the columns {', '.join(COLUMNS)} was expected"
            ) from error

    def _record(self, line: int, fields: list[str]) -> Record:
        width = len(fields)
        if width < self._width:
            fields = [*fields, *[""] * (self._width - width)]
        return Record(line, width, *map(str.strip, self._pick(fields)))


class _Lines:
    """The decoded lines of a file, each with its end. Errors: `BadFile`."""

    def __init__(self, path: Path) -> None:
        self.number = 0
        self.whole = True
        """The last line had an end."""
        self.ended = False
        """There are no more lines."""
        self._path = path
        self._lines = self._read()

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def _read(self) -> Iterator[str]:
        try:
            with _open(self._path) as file:
                while raw := file.readline(LONGEST_LINE):
                    self.number += 1
                    if len(raw) == LONGEST_LINE:
                        raise self._bad(f"is longer than {LONGEST_LINE:,} bytes. Lines of a CSV file were expected")
                    self.whole = raw.endswith(b"\n")
                    yield raw.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise self._bad(
                f"is not UTF-8: byte {error.start + 1} is 0x{byte:02x}. Convert the file to UTF-8 and run again"
            ) from error
        except EOFError as error:
            self.number += 1
            raise self._bad(
                "cannot be read, because the gzipped file is cut off before it. Nothing of it was used: get it whole and run "
                "again"
            ) from error
        except (zlib.error, gzip.BadGzipFile) as error:
            self.number += 1
            raise self._bad(f"cannot be read, because the gzipped file is damaged: {error}") from error
        except OSError as error:
            what = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
            raise BadFile(f"{self._path} cannot be read: {what}. A CSV file of order lines was expected") from error
        self.ended = True

    def _bad(self, what: str) -> BadFile:
        return BadFile(f"{self._path}, line {self.number}: the line {what}")


@contextmanager
def _open(path: Path) -> Generator[BinaryIO, None, None]:
    """A file that can be read twice, unzipped if its first bytes say that it is gzipped."""
    if path.exists() and not path.is_file():
        raise BadFile(f"{path} is not a file. It is read twice, so a folder, a pipe or a terminal will not do")
    with path.open("rb") as file:
        if file.peek(2)[:2] != b"\x1f\x8b":
            yield file
            return
        with gzip.GzipFile(fileobj=file, mode="rb") as unzipped:
            yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, unzipped), 1 << 16))


def _columns(path: Path, header: list[str] | None) -> tuple[int, ...]:
    """Where each column that is used is. Errors: `BadFile`."""
    if not header:
        raise BadFile(f"{path}, line 1: there is no header. One with the columns {', '.join(COLUMNS)} was expected")
    names = [name.strip() for name in header]
    for column in COLUMNS:
        if names.count(column) != 1:
            found = "there is no column" if column not in names else "there is more than one column"
            raise BadFile(
                f"{path}, line 1: {found} {column}. The columns {', '.join(COLUMNS)} were expected, in any order, and these "
                f"are there: {', '.join(names)[:500]}"
            )
    return tuple(names.index(column) for column in _USED)


# ------------------------------------------------------------------------------------------------------------- lines


def _number(text: str) -> Decimal | None:
    """The number a text says; None for none, and for those that are infinite or beyond all bounds."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite():
        return None
    if len(text) < NUMBER_DIGITS and "e" not in text and "E" not in text:
        return number
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    bounded = max(len(digits), abs(exponent), abs(number.adjusted())) <= NUMBER_DIGITS
    return number if bounded else None


def _why_not(
    record: Record, width: int, quantity: Decimal | None, price: Decimal | None, *, cancels: bool
) -> str | None:
    """Why the record is no line of an order or a cancellation; None if it is one."""
    if record.width != width:
        return f"the line has {record.width} fields, the header has {width}" if record.width else "the line is blank"
    if not record.invoice:
        return "there is no InvoiceNo"
    if len(record.sku) + len(record.invoice) + len(record.customer) + len(record.country) + len(record.date) > LONGEST:
        return f"its fields have more than {LONGEST} characters"
    if not GOODS.fullmatch(record.sku):
        return f"StockCode {_shown(record.sku)} is not one of goods"
    return _why_not_quantity(quantity, record.quantity, cancels=cancels) or _why_not_price(price, record.unit_price)


def _why_not_quantity(quantity: Decimal | None, text: str, *, cancels: bool) -> str | None:
    if quantity is None:
        return f"Quantity {_shown(text)} is not a number"
    if quantity == 0:
        return "Quantity is zero"
    if abs(quantity) > LARGEST:
        return f"Quantity {_shown(text)} is beyond {LARGEST:,}"
    if quantity != int(quantity):
        return f"Quantity {_shown(text)} is not a whole number"
    if cancels == (quantity < 0):
        return None
    return f"Quantity {_shown(text)} is {'positive in a cancellation' if cancels else 'negative in an order'}"


def _why_not_price(price: Decimal | None, text: str) -> str | None:
    if price is None:
        return f"UnitPrice {_shown(text)} is not a number"
    if price <= 0:
        return f"UnitPrice {_shown(text)} is negative" if price < 0 else "UnitPrice is zero"
    if price > LARGEST:
        return f"UnitPrice {_shown(text)} is beyond {LARGEST:,}"
    return f"UnitPrice has more than {PRICE_CHARACTERS} characters" if len(text) > PRICE_CHARACTERS else None


def _rejected(record: Record, quantity: Decimal | None, price: Decimal | None, reason: str) -> LineRejected:
    """The event. Its amount is quantity × price, also where something else is wrong; what is no number counts as 0."""
    amount = Decimal(0)
    if quantity is not None and price is not None:
        amount = exact.multiply(quantity, price)
    elif record.width:
        wrong = [
            f"{name} {_shown(text)} is not a number"
            for name, text, number in (("Quantity", record.quantity, quantity), ("UnitPrice", record.unit_price, price))
            if number is None
        ]
        reason = f"{'; '.join(dict.fromkeys((reason, *wrong)))}: its amount counts as 0"
    order_id = record.invoice if 0 < len(record.invoice) <= LONGEST else None
    sku, quantity_text, price_text = (_shortened(text) for text in (record.sku, record.quantity, record.unit_price))
    return LineRejected(
        order_id=order_id, sku=sku, quantity=quantity_text, unit_price=price_text, amount=amount, reason=reason
    )


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
