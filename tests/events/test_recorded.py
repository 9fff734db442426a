"""Places in a log, points in time, and criteria to select events by."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue import Criteria, Event, Position
from ensue.errors import InvalidEvent, WrongLog
from ensue.events.recorded import instant, microseconds
from ensue.events.registry import Registry


class Shelf(Enum):
    TOP = 1


class Stored(Event, key="item", tags=("shelf", "day", "price", "owner", "at")):
    item: UUID
    shelf: Shelf
    day: date
    price: Decimal
    owner: int
    at: datetime


# ------------------------------------------------------------------------------------------------------------- position


@given(st.integers(0, 2**60), st.integers(0, 100))
def test_a_position_survives_as_text(first: int, more: int) -> None:
    position = Position.of("0f3a", first, first + more)
    assert Position(str(position)) == position
    assert hash(Position(str(position))) == hash(position)
    assert (position.log_id, position.first, position.last) == ("0f3a", first, first + more)


@pytest.mark.parametrize("text", ["", "17", "17-18", "log.17", "log.-1-2", "log.a-b", ".1-2", "log.1-2-3", "log.1.5-2"])
def test_a_text_that_no_position_gave_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a position; one looks like"):
        Position(text)


def test_positions_of_one_log_are_ordered() -> None:
    places = [Position.of("log", first, last) for first, last in ((5, 5), (1, 2), (2, 2), (1, 1))]
    assert [str(place) for place in sorted(places)] == ["log.1-1", "log.1-2", "log.2-2", "log.5-5"]
    assert places[0] >= places[1]


def test_positions_of_two_logs_are_not_compared() -> None:
    one, other = Position.of("one", 1, 1), Position.of("other", 1, 1)
    assert one != other
    with pytest.raises(WrongLog, match="belongs to the log other, not to one"):
        _ = one < other


# ----------------------------------------------------------------------------------------------------------------- time


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_an_instant_survives_as_microseconds(time: datetime) -> None:
    assert instant(microseconds(time)) == time


def test_an_instant_is_the_same_in_every_zone() -> None:
    time = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert microseconds(time.astimezone(timezone(timedelta(hours=9)))) == microseconds(time)


# ------------------------------------------------------------------------------------------------------------- criteria


def test_criteria_find_a_value_of_whatever_type_the_field_has() -> None:
    event = Stored(
        item=UUID(int=7),
        shelf=Shelf.TOP,
        day=date(2026, 1, 2),
        price=Decimal("1.50"),
        owner=12,
        at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    draft = Registry().draft(event, id=b"i" * 16, time=0)
    assert draft.stream is not None
    for name in ("item", "shelf", "day", "price", "owner", "at"):
        ((types, tags),) = Criteria(Stored, **{name: getattr(event, name)}).terms
        assert types == (Stored,)
        assert tags[0] in {draft.stream, *draft.tags}


def test_criteria_find_a_value_by_its_text_as_well() -> None:
    assert Criteria(item=UUID(int=7)).terms == Criteria(item="00000000-0000-0000-0000-000000000007").terms
    assert Criteria(shelf=Shelf.TOP).terms == Criteria(shelf=1).terms == Criteria(shelf="1").terms


@pytest.mark.parametrize("value", [True, 1.5, None, ""])
def test_criteria_refuse_a_value_that_no_tag_can_have(value: object) -> None:
    with pytest.raises(InvalidEvent):
        Criteria(item=value)


def test_either_of_two_criteria_has_the_terms_of_both() -> None:
    one, other = Criteria(Stored), Criteria(shelf=Shelf.TOP)
    assert (one | other).terms == one.terms + other.terms
    assert one.terms == Criteria(Stored).terms
