"""Across versions and names: what was written is read by newer code, and survives code that does not know it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from ensue import Event, Fields, Recorded, UnknownEvent, upcast
from ensue.errors import DefinitionError, UnreadableEvent
from ensue.events.recorded import instant
from ensue.events.registry import Registry, redraft
from ensue.events.stored import Draft, Row
from tests.events.declared import define


class InvoiceSent(Event, key="invoice_id", version=4, was=("BillSent", "invoice-sent")):
    invoice_id: str
    amount: Decimal
    currency: str
    lines: tuple[str, ...]


@upcast("BillSent", version=1)
def named_by_number(fields: Fields) -> Fields:
    return {"invoice_id": f"bill-{fields.pop('number')}", **fields}


@upcast(InvoiceSent, version=1)
def named_by_id(fields: Fields) -> Fields:
    return {"invoice_id": f"invoice-{fields.pop('id')}", **fields}


@upcast(InvoiceSent, version=2)
def with_currency(fields: Fields) -> Fields:
    return {**fields, "currency": "EUR"}


@upcast(InvoiceSent, version=3)
def with_exact_amount(fields: Fields) -> Fields:
    return {**fields, "amount": Decimal(fields["cents"]) / 100, "lines": []}


class Gap(Event, version=3):
    number: int


REGISTRY = Registry([InvoiceSent, Gap])


def _read(name: str, version: int, data: bytes, registry: Registry = REGISTRY) -> Event:
    return registry.decoder(name, version)(data)


def test_an_old_version_is_led_through_every_step_to_the_present_one() -> None:
    assert _read("InvoiceSent", 1, b'{"id": 7, "cents": 1050}') == InvoiceSent(
        invoice_id="invoice-7", amount=Decimal("10.5"), currency="EUR", lines=()
    )
    assert _read("InvoiceSent", 3, b'{"invoice_id": "x", "currency": "USD", "cents": 100}') == InvoiceSent(
        invoice_id="x", amount=Decimal(1), currency="USD", lines=()
    )


def test_the_present_version_goes_through_no_step() -> None:
    data = b'{"invoice_id": "x", "amount": "1.10", "currency": "USD", "lines": ["a"]}'
    assert _read("InvoiceSent", 4, data) == InvoiceSent(
        invoice_id="x", amount=Decimal("1.10"), currency="USD", lines=("a",)
    )


def test_an_old_name_has_steps_of_its_own_and_then_those_of_the_present_one() -> None:
    event = _read("BillSent", 1, b'{"number": 7, "cents": 5}')
    assert event == InvoiceSent(invoice_id="bill-7", amount=Decimal("0.05"), currency="EUR", lines=())
    assert _read("invoice-sent", 1, b'{"id": 7, "cents": 5}') == msgspec.structs.replace(event, invoice_id="invoice-7")


def test_exact_numbers_survive_the_steps() -> None:
    event = _read("InvoiceSent", 3, b'{"invoice_id": "x", "currency": "E", "cents": 100000000000000000000000000001}')
    assert isinstance(event, InvoiceSent)
    assert event.amount == Decimal(100000000000000000000000000001) / 100


def test_a_version_that_nothing_leads_on_from_is_told_with_what_to_declare() -> None:
    with pytest.raises(UnreadableEvent, match=r"Gap version 1 is in the log, .* declare @upcast\(Gap, version=1\)"):
        REGISTRY.decoder("Gap", 1)


def test_a_chain_with_a_step_missing_in_the_middle_is_told() -> None:
    class Chained(Event, version=4):
        number: int

    for version in (1, 3):
        upcast(Chained, version=version)(dict)
    with pytest.raises(UnreadableEvent, match=r"nothing leads from it to version 3"):
        Registry([Chained]).decoder("Chained", 1)


def test_a_version_of_newer_code_is_told() -> None:
    with pytest.raises(UnreadableEvent, match="written in version 5, this code knows versions up to 4: newer code"):
        REGISTRY.decoder("InvoiceSent", 5)


def test_a_version_has_one_upcaster() -> None:
    with pytest.raises(DefinitionError, match="InvoiceSent version 2 has two upcasters"):
        upcast(InvoiceSent, version=2)(named_by_id)
    assert upcast(InvoiceSent, version=2)(with_currency) is with_currency


def test_a_class_that_is_defined_anew_has_upcasters_of_its_own() -> None:
    for number in (1, 2):
        again = define("Again", {"number": int}, version=2)
        upcast(again, version=1)(lambda fields, number=number: {"number": number})
        assert _read("Again", 1, b"{}", Registry([again])) == msgspec.convert({"number": number}, again)


# ------------------------------------------------------------------------------------------------- unknown to this code


def _row(draft: Draft) -> Row:
    return (9, draft.id, 1, draft.stream, 4, 1_000, None, None, None, None, draft.meta, draft.data)


def _recorded(draft: Draft, registry: Registry) -> Recorded[Any]:
    event = registry.decoder(draft.type_name, draft.type_version)(draft.data)
    return Recorded(event, _row(draft), draft.type_name, draft.type_version, "log")


def test_an_unknown_type_is_an_unknown_event_with_its_fields() -> None:
    event = _read("Unheard", 7, b'{"a": 1, "b": {"c": [true, null]}}')
    assert event == UnknownEvent(type_name="Unheard", type_version=7, fields={"a": 1, "b": {"c": [True, None]}})


def test_an_event_of_an_unknown_type_is_written_again_byte_for_byte() -> None:
    written = REGISTRY.draft(
        InvoiceSent(invoice_id="i", amount=Decimal("1.10"), currency="E", lines=()), id=b"i" * 16, time=3,
        headers={"a": "b"}, traceparent="00-1-2-01",
    )  # fmt: skip
    assert redraft(_recorded(written, Registry())) == written


def test_fields_that_the_code_does_not_know_are_kept_when_the_event_is_written_again() -> None:
    known = REGISTRY.draft(Gap(number=1), id=b"g" * 16, time=3)
    newer = msgspec.structs.replace(known, data=b'{"number":1,"added_later":{"x":"1.10"}}')
    recorded = _recorded(newer, REGISTRY)
    assert recorded.event == Gap(number=1)
    assert redraft(recorded) == newer


def test_an_older_version_is_written_again_as_it_was() -> None:
    older = msgspec.structs.replace(
        REGISTRY.draft(Gap(number=1), id=b"g" * 16, time=3),
        type_name="BillSent",
        type_version=1,
        data=b'{"number":7,"cents":5}',
    )
    assert redraft(_recorded(older, REGISTRY)) == older


# --------------------------------------------------------------------------------------------------------- what is seen


def test_a_recorded_event_tells_what_stands_beside_it() -> None:
    draft = REGISTRY.draft(
        InvoiceSent(invoice_id="i", amount=Decimal(1), currency="E", lines=()), id=bytes(15) + b"\1", time=5_000_000,
        correlation=bytes(15) + b"\2", causation=bytes(15) + b"\3", headers={"a": "b"},
    )  # fmt: skip
    recorded = _recorded(draft, REGISTRY)
    assert recorded.id == "00000000-0000-0000-0000-000000000001"
    assert (str(recorded.position), recorded.stream_version) == ("log.9-9", 4)
    assert (recorded.recorded_at, recorded.time) == (instant(1_000), instant(5_000_000))
    assert (recorded.key, recorded.tags, recorded.headers) == ("invoice_id=i", (), {"a": "b"})
    assert (recorded.correlation_id[-1], recorded.causation_id) == ("2", "00000000-0000-0000-0000-000000000003")
    assert (recorded.cause, recorded.root, recorded.data) == (None, None, draft.data)
