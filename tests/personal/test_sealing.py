"""What is personal is sealed in what a log stores, read with the subject's key, and forgotten with it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue import FORGOTTEN, Event, Fields, Forgotten, Personal, Subject, upcast
from ensue.errors import AlreadyForgotten, DefinitionError, InvalidEvent, KeyLost, UnreadableEvent
from ensue.events.registry import Registry, fingerprint
from ensue.events.stored import Draft, Meta
from ensue.store.keys import KeyRing, MemoryKeys
from ensue.world import RealWorld

ID = bytes(range(16))


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Address(msgspec.Struct, frozen=True):
    street: str
    floor: int | None = None


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float


class CustomerJoined(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[str]
    plan: str = "free"
    phone: Personal[str | None] = None
    tags: Personal[list[str]] = msgspec.field(default_factory=list, name="labels")


class Everything(Event, subject="person"):
    person: str
    text: Personal[str] = ""
    number: Personal[int] = 0
    real: Personal[float] = 0.0
    flag: Personal[bool] = False
    money: Personal[Decimal] = Decimal(0)
    moment: Personal[datetime] = datetime(2026, 1, 1, tzinfo=UTC)
    day: Personal[date] = date(2026, 1, 1)
    span: Personal[timedelta] = timedelta(0)
    raw: Personal[bytes] = b""
    id: Personal[UUID] = UUID(int=0)
    colour: Personal[Colour] = Colour.RED
    maybe: Personal[str | None] = None
    several: Personal[tuple[int, ...]] = ()
    table: Personal[dict[str, int]] = msgspec.field(default_factory=dict)
    address: Personal[Address] = Address(street="")
    point: Personal[Point] = Point(0.0, 0.0)


class Inner(msgspec.Struct):
    email: Personal[str]


class Paid(Event, key="payer_id", tags=("payee_id",), subject="payer_id"):
    payer_id: str
    payee_id: str
    payer: Personal[str]
    payee: Annotated[Personal[str], Subject("payee_id")]


def registry(keys: MemoryKeys | None = None) -> Registry:
    return Registry(keys=KeyRing(keys or MemoryKeys(), RealWorld()))


def forget(known: Registry, subject: str) -> None:
    assert isinstance(known.keys, KeyRing)
    known.keys.destroy([subject])


def draft(known: Registry, event: Event) -> Draft:
    return known.draft(event, id=ID, time=1)


JOINED = CustomerJoined(customer_id="c1", email="ada@example.com", phone="+44 1", tags=["vip"])


def test_a_personal_field_is_not_in_the_bytes_that_are_stored_and_comes_back() -> None:
    known = registry()
    data = known.encode(JOINED)
    assert b"ada" not in data
    assert b"vip" not in data
    assert b'"customer_id":"c1"' in data
    assert b'"plan":"free"' in data
    assert known.decoder("CustomerJoined", 1)(data) == JOINED


def test_what_was_stored_about_a_forgotten_subject_is_read_as_forgotten_and_all_else_as_it_was() -> None:
    known = registry()
    data = known.encode(JOINED)
    other = known.encode(CustomerJoined(customer_id="c2", email="bob@example.com"))
    forget(known, "customer_id=c1")
    read = known.decoder("CustomerJoined", 1)
    assert read(data) == CustomerJoined(customer_id="c1", email=FORGOTTEN, phone=FORGOTTEN, tags=FORGOTTEN)
    assert read(other) == CustomerJoined(customer_id="c2", email="bob@example.com")


def test_nothing_personal_is_stored_about_who_was_forgotten_but_that_it_is_forgotten() -> None:
    known = registry()
    forget(known, "customer_id=c1")
    with pytest.raises(AlreadyForgotten, match="customer_id=c1") as raised:
        known.encode(JOINED)
    assert "ada" not in str(raised.value)
    gone = CustomerJoined(customer_id="c1", email=FORGOTTEN, phone=FORGOTTEN, tags=FORGOTTEN)
    assert known.decoder("CustomerJoined", 1)(known.encode(gone)) == gone


def test_what_comes_from_elsewhere_about_who_was_forgotten_is_stored_as_forgotten() -> None:
    known, sender = registry(), Registry()
    known.add(CustomerJoined)
    forget(known, "customer_id=c1")
    arrived = known.arrived(
        "CustomerJoined", 1, sender.encode(JOINED), id=ID, meta=lambda keyed: Meta(1, ID, None, keyed.key, keyed.tags)
    )
    assert b"ada" not in arrived.data
    read = known.decoder("CustomerJoined", 1)(arrived.data)
    assert isinstance(read, CustomerJoined)
    assert read.email == FORGOTTEN


def test_what_comes_from_elsewhere_is_sealed_and_keeps_what_the_code_does_not_know() -> None:
    known = registry()
    known.add(CustomerJoined)
    data = b'{"customer_id":"c1","email":"ada@example.com","later":[1, 2]}'
    arrived = known.arrived("CustomerJoined", 1, data, id=ID, meta=lambda keyed: Meta(1, ID, None, keyed.key))
    assert b"ada" not in arrived.data
    assert b'"later":[1, 2]' in arrived.data
    assert known.decoder("CustomerJoined", 1)(arrived.data) == CustomerJoined(customer_id="c1", email="ada@example.com")


def test_what_is_sealed_elsewhere_is_not_opened_here() -> None:
    known = registry()
    with pytest.raises(UnreadableEvent, match="no keys here"):
        known.arrived("CustomerJoined", 1, known.encode(JOINED), id=ID, meta=lambda keyed: Meta(1, ID))


def test_on_the_wire_it_is_plain_while_the_key_is_there_and_said_to_be_forgotten_afterwards() -> None:
    known, receiver = registry(), Registry([CustomerJoined])
    data = known.encode(JOINED)
    plain = known.unsealed("CustomerJoined", data)
    assert receiver.decoder("CustomerJoined", 1)(plain) == JOINED
    forget(known, "customer_id=c1")
    gone = receiver.decoder("CustomerJoined", 1)(known.unsealed("CustomerJoined", data))
    assert isinstance(gone, CustomerJoined)
    assert isinstance(gone.email, Forgotten)


def test_each_field_may_have_a_subject_of_its_own() -> None:
    known = registry()
    paid = Paid(payer_id="p1", payee_id="p2", payer="Ada", payee="Bob")
    data = known.encode(paid)
    assert sorted(known.subjects([paid])) == ["payee_id=p2", "payer_id=p1"]
    forget(known, "payee_id=p2")
    assert known.decoder("Paid", 1)(data) == Paid(payer_id="p1", payee_id="p2", payer="Ada", payee=FORGOTTEN)


def test_the_same_event_has_the_same_fingerprint_and_another_another() -> None:
    known = registry()
    again, other = draft(known, JOINED), draft(known, msgspec.structs.replace(JOINED, email="eve@example.com"))
    assert fingerprint([draft(known, JOINED)]) == fingerprint([again])
    assert fingerprint([other]) != fingerprint([again])


def test_equal_values_of_two_subjects_or_fields_cannot_be_told_to_be_equal() -> None:
    known = registry()
    sealed = [
        msgspec.json.decode(known.encode(CustomerJoined(customer_id=id, email="x", phone="x"))) for id in ("c1", "c2")
    ]
    assert len({sealed[0]["email"]["$personal"][30:], sealed[0]["phone"]["$personal"][30:]}) == 2
    assert len({one["email"]["$personal"][30:] for one in sealed}) == 2


def test_a_sealed_field_that_was_changed_or_moved_does_not_open() -> None:
    known = registry()
    fields = msgspec.json.decode(known.encode(JOINED))
    moved = msgspec.json.encode({**fields, "email": fields["phone"]})
    with pytest.raises(UnreadableEvent, match="email does not open"):
        known.decoder("CustomerJoined", 1)(moved)
    text = fields["email"]["$personal"]
    middle = len(text) // 2  # at the end some bits of a character say nothing
    other = "A" if text[middle] != "A" else "B"
    changed = {**fields, "email": {"$personal": text[:middle] + other + text[middle + 1 :]}}
    with pytest.raises(UnreadableEvent):
        known.decoder("CustomerJoined", 1)(msgspec.json.encode(changed))
    cut = {**fields, "email": {"$personal": text[:8]}}
    with pytest.raises(UnreadableEvent, match="in a way that this code does not know"):
        known.decoder("CustomerJoined", 1)(msgspec.json.encode(cut))


def test_a_key_that_is_lost_is_an_error_and_never_read_as_forgotten() -> None:
    data = registry().encode(JOINED)
    with pytest.raises(KeyLost, match="not in the key store"):
        registry_knowing(CustomerJoined).decoder("CustomerJoined", 1)(data)


def registry_knowing(*types: type[Event]) -> Registry:
    known = registry()
    for event in types:
        known.add(event)
    return known


def test_no_value_is_shown_by_repr_nor_by_an_error() -> None:
    assert "ada@example.com" not in repr(JOINED)
    assert "customer_id='c1'" in repr(JOINED)
    known = registry()
    for wrong in ("secret-7", {"secret-7": 1}):
        event = CustomerJoined(customer_id="c1", email="a", tags=wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        with pytest.raises(InvalidEvent) as raised:
            known.encode(event)
        assert "tags" in str(raised.value)
        assert "secret-7" not in str(raised.value)
        assert raised.value.__cause__ is None
    with pytest.raises(InvalidEvent, match="real") as raised:
        known.encode(Everything(person="p", real=float("inf")))
    with pytest.raises(InvalidEvent) as raised:
        known.encode(CustomerJoined(customer_id="c1", email="secret-7", plan=7))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert "plan" in str(raised.value)
    assert "secret-7" not in str(raised.value)


def test_what_would_not_be_protected_is_refused() -> None:
    class NoSubject(Event, key="customer_id"):
        customer_id: str
        email: Personal[str]

    class InsideUnion(Event, subject="customer_id"):
        customer_id: str
        email: Personal[str] | None = None

    class InsideValue(Event, subject="customer_id"):
        customer_id: str
        inner: list[Inner]

    class AsKey(Event, key="email", subject="customer_id"):
        customer_id: str
        email: Personal[str]

    class OfNobody(Event, subject="customer_id"):
        customer_id: str
        other: str
        email: Annotated[Personal[str], Subject("other")]

    said: list[tuple[type[Event], str]] = [
        (NoSubject, "nothing says whose"),
        (InsideUnion, "inside its value"),
        (InsideValue, "inside its value"),
        (AsKey, "kept for ever"),
        (OfNobody, "nothing says whose"),
    ]
    for event, words in said:
        with pytest.raises(DefinitionError, match=words):
            registry().add(event)
    with pytest.raises(DefinitionError, match="not a field"):

        class NoField(Event, subject="customer"):  # pyright: ignore[reportUnusedClass]
            customer_id: str

    with pytest.raises(DefinitionError, match="does not say what"):

        class Generic(Event, subject="id"):  # pyright: ignore[reportUnusedClass]
            id: str


def test_who_is_nobody_has_no_personal_data() -> None:
    class Seen(Event, subject="visitor"):
        visitor: str | None
        address: Personal[str | None] = None

    known = registry()
    with pytest.raises(InvalidEvent, match="visitor is None"):
        known.encode(Seen(visitor=None, address="10.0.0.1"))


def test_an_upcaster_gets_the_value_or_that_it_is_forgotten_also_of_a_former_name() -> None:
    class Old(Event, name="test.Old", key="customer_id", subject="customer_id"):
        customer_id: str
        name: Personal[str]

    class New(Event, name="test.New", was=("test.Old",), version=2, key="customer_id", subject="customer_id"):
        customer_id: str
        first: Personal[str]
        last: Personal[str]

    @upcast(New, version=1)
    def parted(old: Fields) -> Fields:  # pyright: ignore[reportUnusedFunction]
        name: Any = old.pop("name")
        first, last = (name, name) if isinstance(name, Forgotten) else name.split(" ")
        return {**old, "first": first, "last": last}

    keys = MemoryKeys()
    old = registry(keys).encode(Old(customer_id="c1", name="Ada Lovelace"))
    known = registry(keys)
    known.add(New)
    assert known.decoder("test.Old", 1)(old) == New(customer_id="c1", first="Ada", last="Lovelace")
    forget(known, "customer_id=c1")
    assert known.decoder("test.Old", 1)(old) == New(customer_id="c1", first=FORGOTTEN, last=FORGOTTEN)


def test_a_field_that_becomes_personal_is_read_from_before_and_one_that_is_none_any_more_not() -> None:
    class Before(Event, name="test.Turned", key="customer_id"):
        customer_id: str
        email: str

    class After(Event, name="test.Turned", key="customer_id", subject="customer_id"):
        customer_id: str
        email: Personal[str]

    keys = MemoryKeys()
    before, after = registry(keys), registry(keys)
    plain, sealed = before.encode(Before(customer_id="c1", email="a")), after.encode(After(customer_id="c1", email="a"))
    assert after.decoder("test.Turned", 1)(plain) == After(customer_id="c1", email="a")
    with pytest.raises(msgspec.ValidationError):
        before.decoder("test.Turned", 1)(sealed)


FINITE = st.floats(allow_nan=False, allow_infinity=False)
EVERYTHING = st.builds(
    Everything,
    person=st.text(min_size=1, max_size=20),
    text=st.text(),
    number=st.integers(-(2**63), 2**63 - 1),
    real=FINITE,
    flag=st.booleans(),
    money=st.decimals(allow_nan=False, allow_infinity=False),
    moment=st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)),
    day=st.dates(),
    span=st.timedeltas(min_value=timedelta(days=-999), max_value=timedelta(days=999)),
    raw=st.binary(),
    id=st.uuids(),
    colour=st.sampled_from(Colour),
    maybe=st.none() | st.text(),
    several=st.lists(st.integers(0, 9)).map(tuple),
    table=st.dictionaries(st.text(), st.integers(0, 9)),
    address=st.builds(Address, street=st.text(), floor=st.none() | st.integers(0, 9)),
    point=st.builds(Point, FINITE, FINITE),
)


@given(EVERYTHING, st.sets(st.sampled_from(Everything.__struct_fields__[1:])))
def test_every_type_of_field_comes_back_as_it_was_or_forgotten(event: Everything, gone: set[str]) -> None:
    known = registry()
    event = msgspec.structs.replace(event, **dict.fromkeys(gone, FORGOTTEN))
    data = known.encode(event)
    assert known.decoder("Everything", 1)(data) == event
    assert Registry([Everything]).decoder("Everything", 1)(known.unsealed("Everything", data)) == event
    forget(known, f"person={event.person}")
    left: dict[str, Any] = {
        name: FORGOTTEN if getattr(event, name) is not None else None for name in Everything.__struct_fields__[1:]
    }
    assert known.decoder("Everything", 1)(data) == Everything(person=event.person, **left)
