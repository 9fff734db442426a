"""An event's own time: a field of it, with a UTC offset."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from ensue import Event
from ensue.errors import DefinitionError, InvalidEvent
from ensue.events.message import declaration, own_time
from ensue.events.recorded import microseconds
from ensue.events.registry import Registry
from ensue.events.stored import Meta, decode_meta, encode_meta
from tests.events.declared import define


class Read(Event, key="sensor", time="at"):
    sensor: str
    at: datetime | None


class ReadTwice(Read):
    again: datetime


class Noted(Event):
    text: str


AT = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


def test_the_time_of_a_type_is_inherited_and_that_of_a_draft_is_the_events_own() -> None:
    assert declaration(ReadTwice).time == "at"
    assert declaration(Noted).time is None
    draft = Registry().draft(Read(sensor="a", at=AT), id=b"i" * 16, time=5)
    assert decode_meta(draft.meta).time == microseconds(AT)
    assert decode_meta(Registry().draft(Noted(text="x"), id=b"i" * 16, time=5).meta).time == 5


def test_what_arrives_happened_when_it_says_so_itself() -> None:
    registry = Registry()
    registry.add(Read)
    data = registry.encode(Read(sensor="a", at=AT))
    draft = registry.arrived("Read", 1, data, id=b"i" * 16, meta=lambda keyed: Meta(5, b"c" * 16, key=keyed.key))
    assert decode_meta(draft.meta) == decode_meta(encode_meta(Meta(microseconds(AT), b"c" * 16, key="sensor=a")))


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-5)), ZoneInfo("Europe/Berlin")])
def test_the_same_moment_is_the_same_time_in_every_zone(zone: timezone | ZoneInfo) -> None:
    assert own_time(Read(sensor="a", at=AT.astimezone(zone))) == microseconds(AT)
    assert own_time(Noted(text="x")) is None


def test_both_half_past_twos_of_the_night_when_clocks_go_back_are_told_apart() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first, second = (datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=berlin) for fold in (0, 1))
    times = [own_time(Read(sensor="a", at=one)) for one in (first, second)]
    assert times == [microseconds(AT) - 3_600_000_000, microseconds(AT)]


def test_a_time_without_offset_or_none_is_refused_and_named() -> None:
    with pytest.raises(InvalidEvent, match=r"at=.* has no UTC offset"):
        Registry().draft(Read(sensor="a", at=datetime(2026, 3, 1)), id=b"i" * 16, time=5)
    with pytest.raises(InvalidEvent, match="at=None, which says when it happened, is no time"):
        Registry().draft(Read(sensor="a", at=None), id=b"i" * 16, time=5)


def test_a_time_that_is_no_field_is_refused_when_it_is_declared() -> None:
    with pytest.raises(DefinitionError, match="time='when' is not a field of it"):
        define("Wrong", time="when")
