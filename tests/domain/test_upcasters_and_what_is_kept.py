"""What is kept of a fold is of no use once an upcaster of its events says something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ensue import Event, Fields, upcast
from ensue.events.fingerprint import fingerprint_of
from tests.events.declared import define


def printed(*events: type[Event]) -> bytes:
    return fingerprint_of((), (), events)


def kind(*, upcaster: Callable[[Fields], Fields] | None = None, was: tuple[str, ...] = ()) -> type[Event]:
    """Always the same type, with another upcaster."""
    made = define("Kind", {"value": int}, version=2, was=was)
    if upcaster is not None:
        upcast(made, version=1)(upcaster)
    return made


def doubled(old: Fields) -> Fields:
    return {"value": 2 * old["value"]}


def tripled(old: Fields) -> Fields:
    return {"value": 3 * old["value"]}


def test_an_upcaster_that_is_added_or_changed_is_seen() -> None:
    prints = {printed(kind(upcaster=one)) for one in (None, doubled, tripled)}
    assert len(prints) == 3
    assert printed(kind(upcaster=doubled)) == printed(kind(upcaster=doubled))


def test_an_upcaster_of_a_former_name_is_seen() -> None:
    before = printed(kind(was=("KindOfOld",)))
    upcast("KindOfOld", version=1)(doubled)
    assert printed(kind(was=("KindOfOld",))) != before
    assert printed(kind()) == printed(kind()), "and is nothing to those who are not of that name"


class Half(Event):
    value: int


class Unrelated(Event):
    value: int


def test_a_type_that_became_others_is_seen_by_those_who_read_them() -> None:
    before, unrelated = printed(Half), printed(Unrelated)

    @upcast("WholeOfOld", version=1)
    def halves(old: Fields) -> Iterator[Half]:
        yield Half(value=old["value"] // 2)

    assert printed(Half) != before
    assert printed(Unrelated) == unrelated
