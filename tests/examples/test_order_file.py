"""Order lines from files of every kind: what is placed, what is rejected and why, what is refused as a whole."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensue import Event
from ensue.events.registry import Registry
from ensue.examples.shop.events import ORDER_LINES, Line, LineRejected, OrderCancelled, OrderPlaced
from ensue.examples.shop.order_file import COLUMNS, BadFile, Invoice, OrderFile

HEADER = ",".join(COLUMNS)
GOOD = "536365,85123A,HEART HOLDER,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom"


def written(path: Path, *lines: str, header: str = HEADER, end: str = "\r\n") -> Path:
    path.write_bytes("".join(line + end for line in (header, *lines)).encode())
    return path


def line(invoice: str = "1", sku: str = "20001", quantity: str = "2", price: str = "1.25") -> str:
    return f"{invoice},{sku},LANTERN,{quantity},2010-12-01 08:26:00,{price},17850.0,United Kingdom"


def events(path: Path) -> list[Event]:
    return [event for invoice in OrderFile(path) for event in invoice.events()]


def rejection(path: Path) -> LineRejected:
    (event,) = events(path)
    assert isinstance(event, LineRejected)
    return event


def refusal(path: Path) -> str:
    with pytest.raises(BadFile) as caught:
        OrderFile(path)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------- orders and lines


def test_an_invoice_is_one_order_with_all_its_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "f.csv", GOOD, line("536365", "71053", "1", "3.390"))
    assert events(path) == [
        OrderPlaced(
            order_id="536365",
            customer_id="17850.0",
            country="United Kingdom",
            ordered_at="2010-12-01 08:26:00",
            lines=(Line("85123A", 6, Decimal("2.55")), Line("71053", 1, Decimal("3.390"))),
            total=Decimal("18.690"),
        )
    ]


@pytest.mark.parametrize("number", ["C123", "c123"])
def test_an_invoice_that_begins_with_c_cancels(tmp_path: Path, number: str) -> None:
    (event,) = events(written(tmp_path / "f.csv", line(number, quantity="-2")))
    assert isinstance(event, OrderCancelled)
    assert event.lines == (Line("20001", 2, Decimal("1.25")),)


def test_an_order_without_a_customer_is_that_of_a_guest(tmp_path: Path) -> None:
    (event,) = events(written(tmp_path / "f.csv", GOOD.replace("17850.0", "")))
    assert isinstance(event, OrderPlaced)
    assert event.customer_id is None


def test_lines_of_an_invoice_that_are_far_apart_are_one_order(tmp_path: Path) -> None:
    path = written(tmp_path / "f.csv", line("1"), line("2"), line("1", "20002"), line("3"), line("1", "20003"))
    found = [(invoice.number, len(invoice.lines)) for invoice in OrderFile(path)]
    assert found == [("2", 1), ("3", 1), ("1", 3)]


def test_an_order_of_thousands_of_lines_is_one_order(tmp_path: Path) -> None:
    path = written(tmp_path / "f.csv", *[line(sku=str(20_000 + n)) for n in range(ORDER_LINES)])
    (event,) = events(path)
    assert isinstance(event, OrderPlaced)
    assert len(event.lines) == ORDER_LINES
    Registry().encode(event)


def test_lines_beyond_the_most_an_order_may_have_are_rejected(tmp_path: Path) -> None:
    path = written(tmp_path / "f.csv", *[line()] * (ORDER_LINES + 2))
    reasons = [event.reason for event in events(path) if isinstance(event, LineRejected)]
    assert reasons == [f"an order has at most {ORDER_LINES} lines"] * 2


def test_prices_of_many_decimals_are_exact(tmp_path: Path) -> None:
    (event,) = events(written(tmp_path / "f.csv", line(quantity="3", price="0.1234567890123456789012345678901234567")))
    assert isinstance(event, OrderPlaced)
    assert event.total == Decimal("0.3703703670370370367037037036703703701")


@pytest.mark.parametrize(
    ("quantity", "price", "amount"), [("2e1", "1.25", "25"), ("2", "125E-2", "2.50"), (" 2 ", "+1.25", "2.5")]
)
def test_numbers_may_be_written_in_any_way_that_is_a_number(
    tmp_path: Path, quantity: str, price: str, amount: str
) -> None:
    (event,) = events(written(tmp_path / "f.csv", line(quantity=quantity, price=price)))
    assert isinstance(event, OrderPlaced)
    assert event.total == Decimal(amount)


@pytest.mark.parametrize(
    ("text", "reason", "amount"),
    [
        ("", "the line is blank", "0"),
        (",,,,,,,", "there is no InvoiceNo; Quantity '' is not a number; UnitPrice '' is not a number", "0"),
        (line(""), "there is no InvoiceNo", "2.50"),
        (line(sku=""), "StockCode '' is not one of goods", "2.50"),
        (line(sku="POST"), "StockCode 'POST' is not one of goods", "2.50"),
        (line(sku="２０００１"), "StockCode '２０００１' is not one of goods", "2.50"),
        (line(quantity="0"), "Quantity is zero", "0"),
        (line(quantity="-2"), "Quantity '-2' is negative in an order", "-2.50"),
        (line("C1"), "Quantity '2' is positive in a cancellation", "2.50"),
        (line(quantity="1.5"), "Quantity '1.5' is not a whole number", "1.875"),
        (line(quantity="1e20"), "Quantity '1e20' is beyond 1,000,000,000", "1.25e20"),
        (line(quantity="two"), "Quantity 'two' is not a number: its amount counts as 0", "0"),
        (line(quantity="NaN"), "Quantity 'NaN' is not a number: its amount counts as 0", "0"),
        (line(price="0.0"), "UnitPrice is zero", "0"),
        (line(price="-1"), "UnitPrice '-1' is negative", "-2"),
        (line(price="inf"), "UnitPrice 'inf' is not a number: its amount counts as 0", "0"),
        (line(price="1e99999"), "UnitPrice '1e99999' is not a number: its amount counts as 0", "0"),
        (line(price="1e10"), "UnitPrice '1e10' is beyond 1,000,000,000", "2e10"),
        (line(price="1." + "0" * 40), "UnitPrice has more than 40 characters", "2"),
        (line() + ",more", "the line has 9 fields, the header has 8", "2.50"),
        ("1,20001,LANTERN,2", "the line has 4 fields, the header has 8", "0"),
        (line("1" * 401), "its fields have more than 400 characters", "2.50"),
    ],
)
def test_a_line_that_is_no_order_is_rejected_with_a_reason(tmp_path: Path, text: str, reason: str, amount: str) -> None:
    event = rejection(written(tmp_path / "f.csv", text))
    assert event.reason.startswith(reason)
    assert event.amount == Decimal(amount)


def test_a_rejected_line_says_what_was_written(tmp_path: Path) -> None:
    event = rejection(written(tmp_path / "f.csv", line("7", "DOT", "1", "569.77")))
    assert (event.order_id, event.sku, event.quantity, event.unit_price) == ("7", "DOT", "1", "569.77")


def test_the_good_lines_of_an_invoice_are_placed_beside_its_rejected_ones(tmp_path: Path) -> None:
    found = events(written(tmp_path / "f.csv", line("1", "POST"), line("1"), line("1", price="0")))
    assert [type(event) for event in found] == [OrderPlaced, LineRejected, LineRejected]


# -------------------------------------------------------------------------------------------------- forms of a file


def one_order(path: Path) -> OrderPlaced:
    (event,) = events(path)
    assert isinstance(event, OrderPlaced)
    return event


def test_all_forms_of_a_file_say_the_same(tmp_path: Path) -> None:
    text = f"{HEADER}\r\n{GOOD}\r\n"
    forms = {
        "crlf": text.encode(),
        "lf": text.replace("\r\n", "\n").encode(),
        "no last end": text.removesuffix("\r\n").encode(),
        "bom": text.encode("utf-8-sig"),
        "gzipped": gzip.compress(text.encode()),
        "gzipped twice over": gzip.compress(text[:50].encode()) + gzip.compress(text[50:].encode()),
        "spaces": text.replace(",", " , ").encode(),
        "quoted": ("\r\n".join(",".join(f'"{field}"' for field in row.split(",")) for row in (HEADER, GOOD))).encode(),
    }
    found: dict[str, OrderPlaced] = {}
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
        found[name] = one_order(tmp_path / name)
    assert found == dict.fromkeys(forms, found["crlf"])


def test_columns_may_be_in_any_order_and_more_of_them(tmp_path: Path) -> None:
    columns = ["Extra", *reversed(COLUMNS)]
    values = ["x", *reversed(GOOD.split(","))]
    order = one_order(written(tmp_path / "f.csv", ",".join(values), header=",".join(columns)))
    assert order == one_order(written(tmp_path / "g.csv", GOOD))


def test_a_quoted_field_may_hold_line_ends_and_commas(tmp_path: Path) -> None:
    path = written(tmp_path / "f.csv", GOOD.replace("HEART HOLDER", '"HEART\r\nHOLDER, ""RED"""'), line("2"))
    first, second = OrderFile(path)
    assert (first.first_line, second.first_line) == (2, 4)
    assert len(first.lines) == 1


def test_a_file_with_a_header_only_has_no_lines(tmp_path: Path) -> None:
    file = OrderFile(written(tmp_path / "f.csv"))
    assert (file.lines, list(file)) == (0, [])


# --------------------------------------------------------------------------------------------------- files refused


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "f.csv")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is not a file" in refusal(tmp_path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(b"")
    assert "line 1: there is no header" in refusal(tmp_path / "f.csv")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_file_without_a_column_is_refused_and_the_column_named(tmp_path: Path, column: str) -> None:
    header = ",".join(name for name in COLUMNS if name != column)
    assert f"line 1: there is no column {column}" in refusal(written(tmp_path / "f.csv", header=header))


def test_a_file_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    assert "more than one column Quantity" in refusal(written(tmp_path / "f.csv", header=f"{HEADER},Quantity"))


def test_a_file_that_is_not_utf_8_is_refused_and_the_line_named(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(f"{HEADER}\n{GOOD}\n{GOOD.replace('HEART', 'CAFÉ')}\n".encode("latin-1"))
    assert "line 3: the line is not UTF-8: byte 18 is 0xc9" in refusal(tmp_path / "f.csv")


def test_a_gzipped_file_that_is_cut_off_is_refused_and_the_line_named(tmp_path: Path) -> None:
    content = gzip.compress("\n".join([HEADER, *(line(str(n)) for n in range(500))]).encode())
    (tmp_path / "f.csv.gz").write_bytes(content[: len(content) // 2])
    message = refusal(tmp_path / "f.csv.gz")
    assert "the gzipped file is cut off" in message
    assert ", line " in message


def test_a_damaged_gzipped_file_is_refused(tmp_path: Path) -> None:
    content = bytearray(gzip.compress("\n".join([HEADER, *(line(str(n)) for n in range(500))]).encode()))
    content[-6] ^= 0xFF
    (tmp_path / "f.csv.gz").write_bytes(content)
    assert "the gzipped file is damaged" in refusal(tmp_path / "f.csv.gz")


def test_a_file_that_ends_inside_a_line_is_refused_and_the_line_named(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(f"{HEADER}\n{GOOD}\n536366,2263")
    assert "line 3: the file ends inside this line" in refusal(tmp_path / "f.csv")


def test_a_file_that_ends_inside_quotes_is_refused_and_the_line_named(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(f'{HEADER}\n{GOOD}\n536366,22633,"HAND WARMER\nUNION JACK\n')
    assert "line 3: the file ends inside this line" in refusal(tmp_path / "f.csv")


def test_what_is_no_text_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(bytes(2_000_000))
    assert "line 1" in refusal(tmp_path / "f.csv")


# -------------------------------------------------------------------------------------------------- everything else

NUMBERS = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.decimals(allow_nan=True, allow_infinity=True).map(str),
    st.decimals(-100, 100, places=3).map(str),
    st.sampled_from(
        ["", "0", "-0.0", "1e3", "2E-400", "1e999999", "1_000", "１２", "--1", "0x10", "1,5", " 6 ", "sNaN"]
    ),
    st.text(max_size=5),
)
FIELDS = st.one_of(st.sampled_from(["", "20001", "85123A", "POST", "England"]), st.text(max_size=12))
INVOICES = st.one_of(st.sampled_from(["", "1", "2", "C3", "c3", "A4"]), st.text(max_size=4))
ROWS = st.one_of(
    st.just(list[str]()),
    st.lists(FIELDS, max_size=10),
    st.tuples(INVOICES, FIELDS, FIELDS, NUMBERS, FIELDS, NUMBERS, FIELDS, FIELDS).map(list),
    st.tuples(INVOICES, st.just("20001"), FIELDS, NUMBERS, FIELDS, NUMBERS, FIELDS, FIELDS).map(list),
)


def number_of(text: str) -> Fraction:
    """0 for what is none, in the words of the reader: not finite, or beyond a thousand digits."""
    try:
        value = Decimal(text.strip())
    except ArithmeticError:
        return Fraction(0)
    return Fraction(value) if value.is_finite() and abs(value.adjusted()) <= 1000 else Fraction(0)


def amount_of(invoices: Iterable[Invoice]) -> Fraction:
    total = Fraction(0)
    for event in (event for invoice in invoices for event in invoice.events()):
        if isinstance(event, LineRejected):
            total += Fraction(event.amount)
        elif isinstance(event, OrderPlaced):
            total += Fraction(event.total)
        elif isinstance(event, OrderCancelled):
            total -= Fraction(event.total)
    return total


@given(rows=st.lists(ROWS, max_size=12))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_record_is_in_one_event_and_the_amounts_add_up(tmp_path: Path, rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *rows])
    path = tmp_path / "f.csv"
    path.write_bytes(text.getvalue().encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode())
    invoices = list(OrderFile(path))
    assert sum(len(invoice.lines) + len(invoice.rejected) for invoice in invoices) == len(rows)
    wide = [[*row, *[""] * 8][:8] for row in rows]
    assert amount_of(invoices) == sum((number_of(row[3]) * number_of(row[5]) for row in wide), Fraction(0))


@given(rows=st.lists(ROWS, max_size=6))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_says_can_be_stored(tmp_path: Path, rows: list[list[str]]) -> None:
    registry = Registry()
    text = io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *rows])
    path = tmp_path / "f.csv"
    path.write_bytes(text.getvalue().encode("utf-8", "replace"))
    for invoice in OrderFile(path):
        for event in invoice.events():
            registry.draft(event, id=bytes(16), time=0)


@given(content=st.binary(max_size=200), zipped=st.booleans())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, zipped: bool) -> None:
    path = tmp_path / "f.csv"
    head = f"{HEADER}\n{GOOD}\n".encode()
    path.write_bytes(gzip.compress(head)[:-1] + content if zipped else head + content)
    with contextlib.suppress(BadFile):
        file = OrderFile(path)
        assert sum(invoice.records for invoice in file) == file.lines
