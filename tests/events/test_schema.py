"""What is recorded is compared with what the code reads: what would be orphaned is told, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue import Event, Fields, upcast
from ensue.events import upcasting
from ensue.events.registry import Registry
from ensue.events.schema import Schema, check, describe, merged, own_types
from tests.events.declared import define


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Red(Enum):
    RED = "red"


class Line(msgspec.Struct):
    sku: str
    count: int


class ShortLine(msgspec.Struct):
    sku: str


class LongLine(msgspec.Struct):
    sku: str
    count: int
    price: Decimal


class Card(msgspec.Struct, tag="card"):
    number: str


class Cash(msgspec.Struct, tag="cash"):
    amount: int


class Tree(msgspec.Struct):
    name: str
    children: list[Tree] = []


def told(old: type[Event] | list[type[Event]], *new: type[Event]) -> list[str]:
    """What a check of the new types against the schema of the old ones finds, each in a line."""
    recorded = Schema(types=())
    for one in old if isinstance(old, list) else [old]:
        recorded = merged(recorded, describe([one]))
    written = msgspec.json.decode(msgspec.json.encode(recorded), type=Schema)
    return [f"{one.type} {one.version} {one.field or '-'}: {one.reason}" for one in check(Registry(new), new, written)]


def of(field: Any, **more: Any) -> type[Event]:
    return define("Said", {"value": field}, **more)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (str, str),
        (int, int),
        (int, float),
        (int, Decimal),
        (float, Decimal),
        (Decimal, str),
        (datetime, str),
        (UUID, str),
        (Colour, str),
        (Red, Colour),
        (Literal["a"], Literal["a", "b"]),
        (Literal[1], int),
        (str, str | None),
        (str, Any),
        (Line, ShortLine),
        (Card, Card | Cash),
        (list[int], list[float]),
        (list[int], tuple[int, ...]),
        (dict[str, int], dict[str, int | None]),
        (Tree, Tree),
        (Annotated[int, msgspec.Meta(ge=3)], int),
        (Annotated[int, msgspec.Meta(ge=3)], Annotated[int, msgspec.Meta(ge=1)]),
    ],
)
def test_a_field_may_come_to_read_more(old: Any, new: Any) -> None:
    assert told(of(old), of(new)) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (str, int, "value: was text and is int"),
        (float, int, "value: was float and is int"),
        (date, datetime, "value: was date and is datetime"),
        (str, Decimal, "value: was text and is decimal"),
        (bool, int, "value: was bool and is int"),
        (str | None, str, "value: may be recorded as null, and is text"),
        (int | str, int, "value: may be recorded as text, and is int"),
        (Colour, Red, "value: may be recorded as 'blue', which it does not take any more"),
        (Literal["a", "b"], Literal["a"], "value: may be recorded as 'b', which it does not take"),
        (Colour, int, "value: may be recorded as 'blue', and is int"),
        (str, Colour, "value: was text and is one of 'blue', 'red'"),
        (Card | Cash, Card, "value: may be recorded as Cash, and is Card"),
        (Line, LongLine, "value.price: is new and has no default, and what is recorded lacks it"),
        (list[Line], list[LongLine], r"value\[\].price: is new and has no default"),
        (Line | None, LongLine | None, "value.price: is new and has no default"),
        (list[str], list[int], r"value\[\]: was text and is int"),
        (dict[str, str], dict[str, int], "value{}: was text and is int"),
        (list[str], str, "value: was a list of text and is text"),
        (tuple[int, int], tuple[int, int, int], "value: was a tuple of 2 and is one of 3"),
        (int, Annotated[int, msgspec.Meta(ge=3)], "value: has the bound ge=3, and what is recorded had none"),
        (
            Annotated[str, msgspec.Meta(max_length=9)],
            Annotated[str, msgspec.Meta(max_length=5)],
            "value: has the bound max_length=5, and what is recorded had 9",
        ),
    ],
)
def test_a_field_that_would_not_read_what_is_recorded_is_told(old: Any, new: Any, words: str) -> None:
    (found,) = told(of(old), of(new))
    with pytest.raises(AssertionError, match=f"^Said 1 {words}"):
        raise AssertionError(found)


values: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([str, int, float, bool, Decimal, date, datetime, Colour, Red, Literal["a", 1], type(None)]),
    lambda inner: (
        inner.map(lambda one: list.__class_getitem__(one))
        | inner.map(lambda one: dict.__class_getitem__((str, one)))
        | inner.map(lambda one: one | None)
    ),
    max_leaves=3,
)


@given(old=values, new=values)
def test_what_is_found_readable_reads_whatever_the_old_type_can_be(old: Any, new: Any) -> None:
    """The promise itself: samples of the old type are decoded by the new one wherever nothing was found."""
    before, after = of(old), of(new)
    if told(before, after):
        return
    for value in examples(old):
        payload = msgspec.json.encode({"value": value})
        Registry([before]).decoder("Said", 1)(payload)
        Registry([after]).decoder("Said", 1)(payload)


def examples(kind: Any) -> list[Any]:
    """Some values of a type, as they are encoded."""
    import types
    import typing

    plain: dict[Any, list[Any]] = {
        str: ["", "x"],
        int: [0, -7],
        float: [0.5, 2.0],
        bool: [True],
        Decimal: ["1.50"],
        date: ["2024-02-29"],
        datetime: ["2024-02-29T01:02:03Z"],
        Colour: ["red", "blue"],
        Red: ["red"],
        type(None): [None],
    }
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind in plain:
        return plain[kind]
    if origin is Literal:
        return list(inner)
    if origin is list:
        return [[], examples(inner[0])]
    if origin is dict:
        return [{}, {"k": examples(inner[1])[0]}]
    assert origin in (typing.Union, types.UnionType), kind
    return [value for one in inner for value in examples(one)]


# ---------------------------------------------------------------------------------------------- versions, names, streams


def test_fields_may_be_dropped_and_new_ones_have_defaults() -> None:
    old = define("Said", {"a": int, "b": int})
    assert told(old, define("Said", {"a": int})) == []
    assert told(old, define("Said", {"a": int, "c": int})) == [
        "Said 1 c: is new and has no default, and what is recorded lacks it"
    ]


def test_every_recorded_version_must_be_led_to_the_present() -> None:
    old = [define("Said", {"a": int}, version=number) for number in (1, 2, 3)]
    new = define("Said", {"a": int}, version=4)
    upcast(new, version=3)(dict)
    upcast(new, version=1)(dict)
    found = told(old, new)
    assert [line[:6] for line in found] == ["Said 1", "Said 2"]
    assert all("declare @upcast(Said, version=2)" in line for line in found)
    upcast(new, version=2)(dict)
    assert told(old, new) == []


def test_a_version_never_falls() -> None:
    (found,) = told(define("Said", {"a": int}, version=3), define("Said", {"a": int}, version=2))
    assert found == "Said 3 -: is recorded, and the code is at version 2: versions never fall"


def test_a_type_that_is_removed_is_told_with_what_to_do() -> None:
    old = define("Gone", {"a": int}, key="a")
    recorded = describe([old])
    (found,) = check(Registry(), [], recorded)
    assert found.reason == "is recorded, and no type of the code is called so"
    assert '@upcast("Gone", version=1) returning events' in found.do


def test_a_rename_that_is_not_said_is_suspected() -> None:
    old, new = (
        define("Old", {"thing": int, "b": str}, key="thing"),
        define("New", {"thing": int, "b": str}, key="thing"),
    )
    (found,) = check(Registry([new]), [new], describe([old]))
    assert "New is new and has the same fields" in found.reason
    assert 'was=("Old",)' in found.do
    renamed = define("New", {"thing": int, "b": str}, key="thing", was=("Old",))
    assert check(Registry([renamed]), [renamed], describe([old])) == []


def test_another_key_would_split_the_streams() -> None:
    fields = {"order_id": str, "customer_id": str}
    (found,) = told(define("Said", fields, key="order_id"), define("Said", fields, key="customer_id"))
    assert "its key was the tag order_id and is customer_id: its streams would split" in found
    (found,) = told(define("Said", fields, key="order_id"), define("Said", fields))
    assert "its key was the tag order_id and is None" in found
    # Under another version as well, and the field may be called otherwise as long as the tag is the same.
    later = define("Said", {"order": str}, key={"order": "order_id"}, version=2)
    upcast(later, version=1)(lambda old: {"order": old["order_id"]})
    assert told(define("Said", fields, key="order_id"), later) == []


def test_tags_that_come_or_go_are_told() -> None:
    fields = {"order_id": str, "customer_id": str}
    bare, tagged = define("Said", fields, key="order_id"), define("Said", fields, key="order_id", tags=("customer_id",))
    assert told(bare, tagged) == ["Said 1 -: has the new tag customer_id, by which no recorded event of it is found"]
    assert "has not the tag customer_id any more" in told(tagged, bare)[0]


def test_a_split_must_lead_on_from_every_version_and_keep_to_the_keys_that_are_recorded() -> None:
    class Part(Event, key="account_id"):
        account_id: str

    class Stray(Event, key="owner_id"):
        owner_id: str

    @upcast("Whole", version=2)
    def parts(old: Fields) -> Iterator[Part]:
        yield Part(account_id=old["a"])

    @upcast("Strange", version=1)
    def strays(old: Fields) -> Iterator[Part | Stray]:
        yield Stray(owner_id=old["a"])

    old = [define(name, {"a": str}, key={"a": "account_id"}, version=version) for name, version in
           (("Whole", 1), ("Whole", 2), ("Strange", 1))]  # fmt: skip
    found = told(old, Part, Stray)
    assert [line[:9] for line in found] == ["Strange 1", "Whole 1 -"]
    assert "becomes Stray, whose key is the tag owner_id, and its recorded events have: account_id" in found[0]
    assert '@upcast("Whole", version=1)' in found[1]
    upcasting._named.pop("Strange")
    upcasting._named.pop("Whole")


def test_a_schema_file_remembers_every_version_and_takes_the_present_one_as_it_is() -> None:
    first, second = define("Said", {"a": int}), define("Said", {"a": int, "b": int}, version=2)
    both = merged(describe([first]), describe([second]))
    assert [(one.name, one.version, [*one.fields]) for one in both.types] == [
        ("Said", 1, ["a"]),
        ("Said", 2, ["a", "b"]),
    ]
    wider = merged(both, describe([define("Said", {"a": int, "b": float}, version=2)]))
    assert [one.fields["b"].shape for one in wider.types if one.version == 2] == ["float"]


def test_the_types_of_an_application_are_those_it_names_and_those_of_its_packages() -> None:
    class Handled(Event):
        pass

    registry = Registry([Handled])
    mine = own_types(registry, ["tests.events.test_schema"])
    assert Handled in mine
    assert own_types(Registry([Handled]), []) == [Handled]
