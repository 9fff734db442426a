"""What an event class may declare, and what is said when it declares it wrongly."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pytest

from ensue import Command, Event, Query
from ensue.errors import DefinitionError, InvalidEvent
from ensue.events.message import tag_of, tag_text
from ensue.events.registry import Registry, declaration
from tests.events.declared import define


class OrderEvent(Event, key="order_id", tags=("customer_id",)):
    order_id: str
    customer_id: str


class OrderPlaced(OrderEvent, name="shop.OrderPlaced", version=3, was=("Ordered", "shop.Order-Placed")):
    total: Decimal


class OrderShipped(OrderEvent, key={"parcel": "parcel_id"}, tags={"customer_id": "customer"}):
    parcel: str


class Ticked(Event):
    number: int


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    YES = "yes"


# -------------------------------------------------------------------------------------------------------- declarations


def test_a_type_is_stored_under_its_own_name_in_version_one() -> None:
    declared = declaration(Ticked)
    assert (declared.name, declared.version, declared.was) == ("Ticked", 1, ())
    assert (declared.key, declared.tags) == (None, ())


def test_key_and_tags_are_inherited_name_and_version_are_not() -> None:
    declared = declaration(OrderPlaced)
    assert (declared.key, declared.tags) == (("order_id", "order_id"), (("customer_id", "customer_id"),))
    assert (declared.name, declared.version, declared.was) == ("shop.OrderPlaced", 3, ("Ordered", "shop.Order-Placed"))

    class Later(OrderPlaced):
        note: str

    assert (declaration(Later).name, declaration(Later).version, declaration(Later).was) == ("Later", 1, ())
    assert declaration(Later).key == ("order_id", "order_id")


def test_a_subclass_may_declare_another_key_and_other_tags() -> None:
    assert declaration(OrderShipped).key == ("parcel", "parcel_id")
    assert declaration(OrderShipped).tags == (("customer_id", "customer"),)


def test_events_cannot_be_changed_and_take_their_fields_by_name() -> None:
    event = Ticked(number=1)
    with pytest.raises(AttributeError):
        event.number = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        Ticked(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert event == Ticked(number=1)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"key": "customer"}, "key='customer' is not a field of it; its fields are: id, order_id"),
        ({"key": "id"}, "the field 'id' does not say what it identifies"),
        ({"key": {"id": "order", "order_id": "order"}}, "a key is one field"),
        ({"key": {"order_id": "order-id"}}, "'order-id' is not a name for a tag"),
        ({"tags": "order_id"}, r'write tags=\("order_id",\)'),
        ({"tags": ("nothing",)}, "tags='nothing' is not a field of it"),
        ({"tags": {"order_id": "a b"}}, "'a b' is not a name for a tag"),
        ({"name": "Order Placed"}, "'Order Placed' is not a name for an event type"),
        ({"name": "shop..Order"}, "is not a name for an event type"),
        ({"name": "x" * 201}, "is not a name for an event type"),
        ({"was": ("1st",)}, "'1st' is not a name for an event type"),
        ({"version": 0}, "versions are whole numbers from 1"),
        ({"closes": True}, "closes=True, and it has no key: it is in no stream that it could close"),
        (
            {"closes": True, "key": {"id": "order"}, "tags": {"order_id": "order"}},
            "it has its key's tag 'order' a second time: another stream would seem closed by it",
        ),
        ({"retention": timedelta()}, r"retention=datetime.timedelta\(0\); a positive duration, such as days\(30\)"),
        ({"retention": 30}, r"retention=30; a positive duration"),
        ({"version": True}, "versions are whole numbers from 1"),
        ({"version": "2"}, "versions are whole numbers from 1"),
    ],
)
def test_a_wrong_declaration_is_refused_where_it_is_made(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError, match=f"^Wrong: .*{words}"):
        define("Wrong", {"id": str, "order_id": str}, **keywords)


def test_a_field_whose_name_says_nothing_may_be_a_key_under_another_name() -> None:
    class Opened(Event, key={"id": "account"}):
        id: str

    assert tag_text(Opened(id="a1"), "id", "account") == "account=a1"


def test_commands_and_queries_are_frozen_messages_too() -> None:
    class Withdraw(Command[None], key="account"):
        account: str

    class Balance(Query[int]):
        account: str

    assert Withdraw(account="a") == Withdraw(account="a")
    with pytest.raises(AttributeError):
        Balance(account="a").account = "b"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


# ------------------------------------------------------------------------------------------------------------ registry


def test_two_types_of_one_name_are_refused_and_both_are_named() -> None:
    other = define("Ticked")
    registry = Registry([Ticked])
    with pytest.raises(DefinitionError, match=r"two event types are called 'Ticked': .*test_declarations\.Ticked and "):
        registry.add(other)


def test_a_former_name_that_another_type_has_is_refused() -> None:
    renamed = define("Counted", was=("Ticked",))
    with pytest.raises(DefinitionError, match="two event types are called 'Ticked'"):
        Registry([Ticked, renamed])


def test_adding_a_type_again_changes_nothing() -> None:
    registry = Registry([Ticked, Ticked])
    registry.add(Ticked)
    assert registry.names([Ticked]) == ("Ticked",)


def test_a_base_covers_its_subclasses_and_event_covers_all_that_is_known() -> None:
    registry = Registry([Ticked])
    assert set(registry.covering([OrderEvent])) >= {OrderEvent, OrderPlaced, OrderShipped}
    assert {Ticked, OrderPlaced} <= set(registry.covering([Event]))


def test_a_stored_name_has_a_present_one() -> None:
    registry = Registry([OrderPlaced])
    assert registry.current_name("Ordered") == "shop.OrderPlaced"
    assert registry.current_name("Unheard") == "Unheard"
    assert registry.knows("shop.Order-Placed")
    assert registry.former() == {"shop.OrderPlaced": ("Ordered", "shop.Order-Placed")}


def test_a_field_of_a_type_that_nobody_can_read_is_refused_when_the_type_is_added() -> None:
    wrong = define("Wrong", {"when": "NoSuchType"})
    with pytest.raises(DefinitionError, match="Wrong: a field has a type that cannot be stored"):
        Registry([wrong])


# ---------------------------------------------------------------------------------------------------------- tag values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("o1", "x=o1"),
        (17, "x=17"),
        (UUID("00000000-0000-7000-8000-000000000001"), "x=00000000-0000-7000-8000-000000000001"),
        (Decimal("1.50"), "x=1.50"),
        (date(2026, 1, 2), "x=2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "x=2026-01-02T03:04:00+00:00"),
        (Colour.RED, "x=red"),
        (Level.HIGH, "x=3"),
        (Word.YES, "x=yes"),
        ("a=b & ü\n", "x=a=b & ü\n"),
    ],
)
def test_values_of_these_types_are_keys_and_tags(value: object, text: str) -> None:
    assert tag_of("x", value) == text


@pytest.mark.parametrize("value", [True, 1.5, b"x", None, ["x"], object()])
def test_values_of_other_types_are_no_keys_or_tags(value: object) -> None:
    with pytest.raises(InvalidEvent, match=r"a key or tag is a text, a whole number, a UUID, a date or an enum"):
        tag_of("x", value)


@pytest.mark.parametrize(("value", "words"), [("", "is empty"), ("x" * 513, "has 513 characters, the limit is 512")])
def test_texts_that_are_empty_or_too_long_are_no_keys_or_tags(value: str, words: str) -> None:
    with pytest.raises(InvalidEvent, match=words):
        tag_of("x", value)
