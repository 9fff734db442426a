"""Samples are made of any type that can be stored, and are read as it."""

from __future__ import annotations

import dataclasses
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest

from ensue import Event
from ensue.errors import DefinitionError
from ensue.events.registry import Registry
from ensue.events.samples import Samples, differences, made, recorded_again
from tests.events.declared import define


class Size(Enum):
    SMALL = 1


class Leaf(msgspec.Struct, tag="leaf"):
    colour: str


class Branch(msgspec.Struct, tag="branch"):
    leaves: list[Leaf | Branch]
    longest: Branch | None = None


class Point(msgspec.Struct, array_like=True):
    x: float
    y: float


class Pair(NamedTuple):
    first: int
    second: str


class Box(TypedDict):
    width: int


@dataclasses.dataclass
class Address:
    street: str
    lines: tuple[int, str] = (1, "a")


class Everything(Event, key="thing_id", tags=("size",)):
    thing_id: UUID
    size: Size
    flag: bool
    when: datetime
    day: date
    at: time
    took: timedelta
    raw: bytes
    amount: Decimal
    ratio: float
    word: Literal["yes", "no"]
    anything: Any
    tree: Branch | Leaf
    point: Point
    pair: Pair
    box: Box
    address: Address
    some: dict[str, list[Decimal]]
    several: frozenset[str]
    perhaps: int | None
    bounded: Annotated[int, msgspec.Meta(ge=100, multiple_of=7)]
    least: Annotated[str, msgspec.Meta(min_length=30)]
    most: Annotated[str, msgspec.Meta(max_length=3)]
    few: Annotated[list[int], msgspec.Meta(min_length=2)]
    naive: Annotated[datetime, msgspec.Meta(tz=False)]
    defaulted: int = 3


def test_a_sample_has_a_value_for_every_field_and_is_read_as_recorded() -> None:
    fields = made(Everything)
    assert set(fields) == set(Everything.__struct_fields__)
    assert fields == made(Everything)
    registry = Registry([Everything])
    samples = recorded_again(registry, [Everything], Samples(()))
    written = msgspec.json.decode(msgspec.json.encode(samples), type=Samples)
    assert list(differences(registry, [Everything], written)) == []


def test_a_field_of_which_no_sample_can_be_made_is_told() -> None:
    wrong = define("Wrong", {"code": Annotated[str, msgspec.Meta(pattern="^[0-9]+$")]})
    with pytest.raises(DefinitionError, match=r"no sample of Wrong can be made by itself: .*code.* Write one by hand"):
        made(wrong)
