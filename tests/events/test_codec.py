"""Events to bytes and back: what is stored can be read, and what could not be read is not stored."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue import Event
from ensue.errors import InvalidEvent
from ensue.events.registry import Registry, fingerprint
from ensue.events.stored import decode_meta, encode_meta, tag_hash

ID = bytes(range(16))


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Line(msgspec.Struct, frozen=True):
    sku: str
    price: Decimal
    weight: float | None = None


@dataclasses.dataclass(frozen=True)
class Address:
    street: str
    position: tuple[float | None, float | None] = (None, None)


class Card(msgspec.Struct, frozen=True, tag="card"):
    number: str


class Transfer(msgspec.Struct, frozen=True, tag="transfer"):
    iban: str


class OrderPlaced(Event, key="order_id", tags=("customer_id", "coupon")):
    order_id: str
    customer_id: int
    lines: tuple[Line, ...] = ()
    address: Address | None = None
    payment: Card | Transfer | None = None
    coupon: str | None = None


class Measured(Event):
    at: datetime | None = None
    day: date | None = None
    clock: time | None = None
    lasted: timedelta | None = None
    colour: Colour | None = None
    size: Literal["s", "m"] | None = None
    id: UUID | None = None
    raw: bytes = b""
    amount: Decimal | None = None
    value: float | None = None
    numbers: dict[str, list[float]] = msgspec.field(default_factory=dict)
    rates: dict[float, int] = msgspec.field(default_factory=dict)
    anything: Any = None
    word: str = ""
    words: frozenset[str] = frozenset()
    count: int = 0


REGISTRY = Registry([OrderPlaced, Measured])


def _again(event: Event) -> Event:
    name = type(event).__name__
    return REGISTRY.decoder(name, 1)(REGISTRY.encode(event))


# ---------------------------------------------------------------------------------------------------------- round trips

finite = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))])


@given(
    st.builds(
        Measured,
        at=st.none() | st.datetimes(timezones=zones),
        day=st.none() | st.dates(),
        clock=st.none() | st.times(),
        # Durations are stored in microseconds, as text.
        lasted=st.none() | st.timedeltas(timedelta(days=-1_000), timedelta(days=1_000)),
        colour=st.none() | st.sampled_from(Colour),
        size=st.sampled_from([None, "s", "m"]),
        id=st.none() | st.uuids(),
        raw=st.binary(max_size=50),
        amount=st.none() | decimals,
        value=st.none() | finite,
        numbers=st.dictionaries(texts, st.lists(finite, max_size=3), max_size=3),
        rates=st.dictionaries(finite, st.integers(), max_size=3),
        anything=st.none() | st.integers() | texts | st.lists(st.booleans()),
        word=texts,
        words=st.frozensets(texts, max_size=3),
        count=st.integers(),
    )
)
def test_every_field_comes_back_as_it_was(event: Measured) -> None:
    assert _again(event) == event


@given(
    st.builds(
        OrderPlaced,
        order_id=texts.filter(bool),
        customer_id=st.integers(),
        lines=st.lists(st.builds(Line, texts, decimals, st.none() | finite), max_size=3).map(tuple),
        address=st.none() | st.builds(Address, texts, st.tuples(st.none() | finite, st.none() | finite)),
        payment=st.none() | st.builds(Card, texts) | st.builds(Transfer, texts),
        coupon=st.none() | texts,
    )
)
def test_nested_values_come_back_as_they_were(event: OrderPlaced) -> None:
    assert _again(event) == event


def test_decimals_are_stored_as_exact_text() -> None:
    data = REGISTRY.encode(Measured(amount=Decimal("0.10000000000000000000000000000000001")))
    assert b'"amount":"0.10000000000000000000000000000000001"' in data
    assert str(_again(Measured(amount=Decimal("1.50"))).amount) == "1.50"  # type: ignore[attr-defined]  # pyright: ignore


@given(
    st.binary(min_size=1, max_size=40),
    st.dictionaries(texts, texts, max_size=3),
    st.none() | texts,
    st.lists(texts, max_size=3),
)
def test_metadata_comes_back_as_it_was(
    id: bytes, headers: dict[str, str], traceparent: str | None, tags: list[str]
) -> None:
    draft = REGISTRY.draft(
        OrderPlaced(order_id="o1", customer_id=7),
        id=ID,
        time=1_234,
        correlation=id,
        causation=id,
        depth=3,
        traceparent=traceparent,
        tracestate="a=1",
        headers=headers or None,
    )
    meta = decode_meta(draft.meta)
    assert (meta.time, meta.correlation, meta.causation, meta.depth) == (1_234, id, id, 3)
    assert (meta.traceparent, meta.tracestate, meta.headers) == (traceparent, "a=1", headers or None)
    assert encode_meta(meta) == draft.meta
    assert decode_meta(encode_meta(msgspec.structs.replace(meta, tags=tuple(tags)))).tags == tuple(tags)


# -------------------------------------------------------------------------------------------------- what is not stored


def _refused(event: Event, words: str, registry: Registry = REGISTRY) -> None:
    with pytest.raises(InvalidEvent, match=words):
        registry.draft(event, id=ID, time=0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"order_id": 7, "customer_id": 1}, "^OrderPlaced: order_id=7 cannot be stored: Expected `str`, got `int`"),
        ({"order_id": None, "customer_id": 1}, "^OrderPlaced: order_id=None cannot be stored"),
        ({"order_id": "o", "customer_id": "x"}, "^OrderPlaced: customer_id='x' cannot be stored"),
        ({"order_id": "o", "customer_id": 1, "lines": [("a", 1)]}, "^OrderPlaced: lines=.* cannot be stored"),
        ({"order_id": "o", "customer_id": 1, "address": object()}, "^OrderPlaced: address=<object .* cannot be stored"),
    ],
)
def test_a_field_of_the_wrong_type_is_refused_by_its_name(fields: dict[str, Any], words: str) -> None:
    _refused(OrderPlaced(**fields), words)


@pytest.mark.parametrize(
    "number", [math.nan, math.inf, -math.inf, Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity")]
)
def test_nan_and_infinity_are_refused_wherever_they_are(number: Any) -> None:
    words = "holds NaN or infinity, which cannot be stored"
    floating = number if isinstance(number, float) else math.nan
    exact = number if isinstance(number, Decimal) else Decimal("NaN")
    _refused(Measured(value=floating), f"^Measured: value=.* {words}")
    _refused(Measured(amount=exact), f"^Measured: amount=.* {words}")
    _refused(Measured(numbers={"a": [1.0, floating]}), f"^Measured: numbers=.* {words}")
    _refused(Measured(rates={floating: 1}), f"^Measured: rates=.* {words}")
    _refused(Measured(anything={"deep": [({"er": number},)]}), f"^Measured: anything=.* {words}")
    _refused(Measured(anything=Line("a", Decimal(1), floating)), f"^Measured: anything=.* {words}")
    order = OrderPlaced(order_id="o", customer_id=1)
    _refused(
        msgspec.structs.replace(order, lines=(Line("a", Decimal(1)), Line("b", exact))),
        f"^OrderPlaced: lines=.* {words}",
    )
    _refused(
        msgspec.structs.replace(order, lines=(Line("a", Decimal(1), floating),)), f"^OrderPlaced: lines=.* {words}"
    )
    _refused(
        msgspec.structs.replace(order, address=Address("s", (None, floating))), f"^OrderPlaced: address=.* {words}"
    )


def test_a_payload_over_the_limit_is_refused_with_both_sizes() -> None:
    registry = Registry([Measured], payload_bytes=1_000)
    registry.encode(Measured(word="x" * 600))
    _refused(Measured(word="x" * 2_000), r"^Measured: the payload has \d{4} bytes, the limit is 1000", registry)


def test_the_limit_of_a_payload_is_a_megabyte_of_what_is_stored() -> None:
    size = len(REGISTRY.encode(Measured()))
    REGISTRY.encode(Measured(word="x" * (1024 * 1024 - size)))
    _refused(Measured(word="x" * (1024 * 1024 - size + 1)), "the payload has 1048577 bytes, the limit is 1048576")


def test_a_text_that_is_no_unicode_is_refused() -> None:
    _refused(Measured(word="\ud800"), "^Measured: word=.* cannot be stored")


def test_an_empty_key_is_refused() -> None:
    _refused(OrderPlaced(order_id="", customer_id=1), "order_id, which is a key or tag, is empty")


def test_an_event_without_its_key_is_refused() -> None:
    class Moved(Event, key="place"):
        place: str | None = None

    _refused(Moved(), "the key place is None; every event of this type needs one", Registry())


# --------------------------------------------------------------------------------------------------------------- drafts


def test_key_and_tags_stand_beside_the_payload_as_texts_and_hashes() -> None:
    draft = REGISTRY.draft(OrderPlaced(order_id="o1", customer_id=7, coupon="SPRING"), id=ID, time=5)
    meta = decode_meta(draft.meta)
    assert (meta.key, meta.tags) == ("order_id=o1", ("customer_id=7", "coupon=SPRING"))
    assert draft.stream == tag_hash("order_id=o1")
    assert draft.tags == (tag_hash("customer_id=7"), tag_hash("coupon=SPRING"))


def test_a_tag_without_a_value_is_left_out() -> None:
    draft = REGISTRY.draft(OrderPlaced(order_id="o1", customer_id=7), id=ID, time=5)
    assert decode_meta(draft.meta).tags == ("customer_id=7",)


def test_an_event_without_a_correlation_begins_one_under_its_own_id() -> None:
    assert decode_meta(REGISTRY.draft(Measured(), id=ID, time=5).meta).correlation == ID
    assert decode_meta(REGISTRY.draft(Measured(), id=ID, time=5, correlation=b"c" * 16).meta).correlation == b"c" * 16


def test_a_fingerprint_tells_other_events_apart_and_not_other_ids() -> None:
    def print_of(*events: Event) -> bytes:
        return fingerprint(
            REGISTRY.draft(event, id=bytes([number]) * 16, time=number) for number, event in enumerate(events)
        )

    first, second = Measured(word="a"), Measured(word="b")
    assert print_of(first) == fingerprint([REGISTRY.draft(first, id=ID, time=99)])
    assert len({print_of(first), print_of(second), print_of(first, second), print_of(second, first), print_of()}) == 5
