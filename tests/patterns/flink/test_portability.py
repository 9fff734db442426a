"""What has a form in Flink SQL, and what is refused: with each reason, and what to write instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ensue.errors import DefinitionError, NotPortable, Unavailable
from ensue.events.message import Event, days, minutes, seconds
from ensue.events.personal import Personal
from ensue.patterns import (
    Pattern,
    absent,
    all_of,
    distinct,
    either,
    group,
    one,
    optional,
    several,
    to_first,
    total,
)
from ensue.patterns.flink import Session, Topic, script, to_flink
from ensue.world import RealWorld
from tests.patterns.flink.cases import PATTERNS, A, B, C, D


class Person(Event, key="who", subject="who"):
    who: str
    name: Personal[str] = ""
    born: tuple[int, ...] = ()
    aged: int | None = None


class Elsewhere(Person, key={"born": "who"}):
    """Its key is in another field."""


class Texts(Event, key="who"):
    who: str
    x: str = ""


class Round(Pattern, within=seconds(9)):
    a = one(A)
    b = one(B)


def opaque(event: A) -> bool:
    return str(event.x) == "1"


def refused(pattern: type[Pattern]) -> str:
    with pytest.raises(NotPortable) as error:
        to_flink(pattern)
    assert error.value.reasons
    assert all(". Instead: " in reason for reason in error.value.reasons)
    return str(error.value)


def pattern(**body: Any) -> Callable[..., type[Pattern]]:
    def made(**options: Any) -> type[Pattern]:
        return type("Made", (Pattern,), body, **({"within": minutes(1)} | options))

    return made


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (pattern(a=one(A, opaque), b=one(B))(), "a: its condition is opaque"),
        (pattern(a=one(A), b=one(B, contiguity="any"))(), 'b: contiguity "any" finds several matches'),
        (pattern(a=one(A), b=several(B, times=3, inner="any"))(), 'b: contiguity "any"'),
        (
            pattern(a=one(A), b=several(B), c=one(C), d=absent(D))(),
            "an absence at the end, behind steps that take a varying",
        ),
        (pattern(a=one(A), b=several(B))(), "b: at the end it takes all until its time is over"),
        (pattern(a=one(A), b=optional(B))(), "b: at the end it takes all"),
        (pattern(a=one(A), b=several(B, greedy=False), c=one(C))(), "b: a step that is not greedy"),
        (pattern(a=one(A), r=group(Round, times=2))(), "r: MATCH_RECOGNIZE has no groups"),
        (pattern(a=optional(A), b=one(B))(), "a: a pattern that begins with a step that may take nothing"),
        (pattern(a=one(A), b=several(B, times=(1, 40)), c=one(C))(), "b: up to 40 events"),
        (pattern(a=one(A), b=several(B, times=(0, None)), c=one(C))(), "b: any number, also none"),
        (pattern(a=one(A), b=several(B, within=seconds(1)), c=one(C))(), "b: within= for each of any number"),
        (
            pattern(a=one(A), b=several(B), d=absent(D), c=one(C))(),
            "d: an absence behind b, which takes a varying number",
        ),
        (pattern(a=one(A), d=absent(D), b=optional(B), c=one(C))(), "an absence before a step that may take nothing"),
        (pattern(a=one(A), d=absent(D, contiguity="strict"))(), "d: a strict absence at the end"),
        (
            pattern(a=one(A), c=absent(C), d=absent(D, within=seconds(1)))(),
            "absences at the end that last differently long",
        ),
        (pattern(a=one(A), b=either(one(B), several(C, times=2)))(), "b.1: a part that is more than one event"),
        (pattern(a=one(A), b=all_of(one(B), one(B, lambda b: b.x > 1)))(), "an event may be taken as b.0 or as b.1"),
        (pattern(a=one(A), b=optional(B), c=one(B), d=one(D))(), "b, c: an event may be taken by either"),
        (
            pattern(a=one(A), b=several(B), c=one(C), d=one(D, within=seconds(1)))(),
            "d: behind b, which takes a varying number",
        ),
        (
            pattern(a=one(A), b=several(B), c=one(C))(skip="none"),
            'skip="none", beside steps that take a varying number',
        ),
        (pattern(a=one(A), b=optional(B), c=one(C))(skip=to_first("b")), "Flink fails where it took none"),
        (pattern(a=one(A), b=one(B), d=absent(D))(skip="past_last"), "Flink would skip before it knows"),
        (pattern(a=one(A), x=absent(C), b=one(B))(skip="past_last"), "a later beginning may complete first"),
        (pattern(a=one(A), b=one(B))(time="processing"), 'time="processing" finds other matches in every run'),
        (pattern(a=one(A), b=one(B))(time="event", lateness=seconds(1)), "a match of MATCH_RECOGNIZE is final"),
        (pattern(a=one(A), b=one(B))(time="event", watermark="key"), 'watermark="key"'),
        (pattern(a=one(A), b=one(B))(semantics="flink"), 'semantics="flink"'),
        (pattern(a=one(A), b=one(B))(within=None, unbounded=True), "nothing bounds how long it waits"),
        (pattern(a=one(A), b=one(B))(within=days(2000)), "Flink knows no longer span than 999"),
        (pattern(a=one(A, lambda a: 6 / a.x > 1), b=one(B))(), "SQL divides otherwise, or the divisor may be 0"),
        (pattern(a=one(A, lambda a: a.x**2 > 1), b=one(B))(), "SQL has another '**'"),
        (pattern(a=one(A), b=one(B, lambda b: b.price * b.price > 1))(), "SQL has another '*'"),
        (pattern(a=one(A), b=one(B, lambda b: b.amount > b.price))(), "it compares float with decimal"),
        (pattern(a=one(A), b=one(B, lambda b: b.price > 0.1))(), "it compares a Decimal with the float 0.1"),
        (pattern(a=one(A), c=one(C, lambda c: c.place > "a"))(), "it may be None, where Python raises"),  # pyright: ignore[reportOptionalOperand]
        (pattern(a=one(Person, lambda p: p.name == "x"), b=one(A))(), "Person.name is personal"),
        (pattern(a=one(Person), b=one(A))(), "Elsewhere, a Person, has its key in another field"),
        (pattern(a=one(Person, lambda p: p.aged == 2**63), b=one(A))(), "none that a column of type BIGINT can have"),
        (pattern(a=one(B, lambda b: b.amount == 2**53 + 1), b=one(A))(), "none that a column of type DOUBLE can have"),
        (pattern(a=one(Person, lambda p: p.born == (1,)), b=one(A))(), "Person.born is of a type that has no column"),
        (
            pattern(a=one(A, lambda a: a.x > 1), t=one(Texts, lambda t: t.x == "1"))(),
            "the field 'x' is str in Texts and int in A",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_proved_to_find_the_same_is_refused(made: type[Pattern], reason: str) -> None:
    assert reason in refused(made)


def test_all_reasons_are_said_at_once() -> None:
    class Odd(Pattern, time="event", lateness=seconds(1), within=minutes(1)):
        a = one(A, opaque)
        r = group(Round)
        b = one(B, contiguity="any")

    said = refused(Odd)
    for part in ("lateness=", "a: its condition is opaque", "r: MATCH_RECOGNIZE has no groups", "b: contiguity"):
        assert part in said


def test_all_reasons_of_steps_together_are_said_at_once() -> None:
    class Together(Pattern, within=minutes(1), skip="none"):
        a = one(A)
        b = optional(B)
        c = one(B)
        d = one(C)
        e = several(D)

        def where(self) -> bool:
            return self.a.x > 1

    said = refused(Together)
    for part in (
        "b, c: an event may be taken by either",
        'skip="none", beside',
        "where(self), beside",
        "e: at the end",
    ):
        assert part in said


def test_all_conditions_that_cannot_be_written_are_said_at_once() -> None:
    unasked: Any = lambda c: c.place > "a"  # noqa: E731

    class Odd(Pattern, within=minutes(1)):
        a = one(A, lambda a: a.x**2 > 1 and 6 / a.x > 1)
        n = absent(B, lambda b: b.price * b.price > 1)
        b = one(B, lambda b: b.amount > b.price)
        c = one(C, unasked)

        def where(self) -> bool:
            return self.b.price > 0.1

    said = refused(Odd)
    for part in (
        "SQL has another '**'",
        "SQL divides otherwise",
        "SQL has another '*'",
        "it compares float with decimal",
        "it may be None",
        "it compares a Decimal with the float 0.1",
    ):
        assert part in said


def test_what_is_wrong_with_one_step_is_not_said_of_the_next() -> None:
    class Behind(Pattern, within=minutes(1)):
        a = one(A)
        n = absent(D)
        r = group(Round)
        b = optional(B)
        c = one(C)

    assert "an absence before a step that may take nothing" not in refused(Behind)


def test_a_condition_on_what_may_not_be_there_is_refused_until_it_was_asked() -> None:
    class Unasked(Pattern, within=minutes(1)):
        b = optional(B)
        c = one(C)

    class Many(Pattern, within=minutes(1)):
        b = several(B)
        c = one(C)

        @c.where
        def kinds(self, c: C) -> bool:
            return len(distinct(self.b, lambda b: b.x)) > c.x

    class Steep(Pattern, within=minutes(1)):
        a = one(A)
        b = several(B)
        c = one(C)

        @b.where
        def sums(self, b: B) -> bool:
            return total(self.b, lambda one: one.x) < 9

    assert "begins with a step" in refused(Unasked)
    assert "counts no different values" in refused(Many)
    assert "its condition looks at earlier events" in refused(Steep)


def test_texts_of_a_pattern_are_constants_of_the_query_whatever_they_hold() -> None:
    class Quoted(Pattern, within=minutes(1)):
        c = one(C, lambda c: c.place == "it's; DROP TABLE x --\\'")

    assert "'it''s; DROP TABLE x --\\'''" in to_flink(Quoted).select("events")


def test_a_query_says_which_columns_it_reads_and_what_must_be_so() -> None:
    query = to_flink(PATTERNS[0])
    assert [(column.name, column.sql_type) for column in query.columns] == [("who", "STRING")]
    assert query.steps == ("a", "b")
    assert any("watermark" in one for one in query.assumptions)
    assert "FROM `my events` WHERE" in query.select("`my events`")


def test_a_topic_that_cannot_be_one_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(DefinitionError, match="no name of a topic"):
        Topic(servers="kafka:9092", name="orders'; DROP")
    with pytest.raises(DefinitionError, match="host:port"):
        Topic(servers="kafka", name="orders")
    topic = Topic(servers="kafka:9092", name="orders", properties={"sasl.jaas.config": "user='me'"})
    assert "'properties.sasl.jaas.config' = 'user=''me'''" in script(to_flink(PATTERNS[0]), topic, topic)[0]


def test_a_gateway_that_is_not_there_is_told_as_such() -> None:
    async def opened(url: str) -> None:
        async with Session(url, RealWorld()):
            raise AssertionError("it is not there")

    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1 cannot be reached to open a session"):
        asyncio.run(opened("http://127.0.0.1:1"))
    for url in ("ftp://127.0.0.1", "http://me:secret@host:1", "flink"):
        with pytest.raises(DefinitionError, match="no SQL gateway") as error:
            Session(url, RealWorld())
        assert "secret" not in str(error.value)
