"""The general engine: what it promises beside the meaning of patterns, which the differential suite holds it to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from ensue import Event
from ensue.errors import ConditionFailed, InvalidEvent, Misuse
from ensue.patterns import Pattern, absent, either, group, one, optional, several
from ensue.patterns.finding import find, timed_out
from ensue.patterns.matches import match_of
from ensue.patterns.operator import Batch, Expired, Found, Output, identity
from ensue.patterns.searching.engine import Engine
from tests.patterns.letters import Letter, events, fed, is_, second, seconds_of, shown

TEN = timedelta(microseconds=10)
TEN_SECONDS = timedelta(seconds=10)


class Pair(Pattern, within=TEN):
    a = one(Letter, is_("a"))
    b = one(Letter, is_("b"))


class Unanswered(Pattern, within=TEN):
    a = one(Letter, is_("a"))
    b = absent(Letter, is_("b"))


class Failing(Pattern, within=TEN):
    a = one(Letter, is_("a"))
    b = one(Letter, lambda letter: 6 // letter.value > 0)


def engine(pattern: type[Pattern], *, timeouts: bool = False) -> Engine:
    return Engine(pattern.__ensue_pattern__, timeouts=timeouts)


def text(outputs: list[Output]) -> list[str]:
    """`a1 b1` of a match, `a1 - 10` of a beginning that was over at 10."""
    found: list[str] = []
    for output in outputs:
        assert isinstance(output, Found | Expired)
        took = " ".join(
            "-" if taken is None else f"{taken.event.kind}{taken.event.value or ''}"  # type: ignore[union-attr]
            for taken in output.steps.values()
        )
        found.append(took if isinstance(output, Found) else f"{took} {output.deadline}")
    return found


def test_deadlines_that_are_over_come_before_the_event() -> None:
    operator = engine(Unanswered)
    assert text(operator.take(fed("a1@0 a2@3"))) == []
    (first,) = operator.take(fed("b@10"))
    assert isinstance(first, Found)
    assert first.ended == 10
    assert operator.advance(13) == []


def test_the_same_moment_of_several_keys_is_told_by_beginning() -> None:
    operator = engine(Unanswered)
    operator.take(fed("a2@1", key="later", start=2))
    operator.take(fed("a1@1", key="earlier", start=1))
    assert [output.key for output in operator.advance(11) if isinstance(output, Found)] == ["earlier", "later"]


def test_it_says_when_time_may_tell_it_something() -> None:
    operator = engine(Unanswered)
    assert operator.due() is None
    operator.take(fed("a@3"))
    assert operator.due() == 13
    operator.take(fed("b@5", start=2))
    assert operator.due() is None


def test_where_time_tells_nothing_nothing_is_due() -> None:
    silent, told = engine(Pair), engine(Pair, timeouts=True)
    silent.take(fed("a@3"))
    told.take(fed("a@3"))
    assert silent.due() is None
    assert told.due() == 13


def test_it_says_which_keys_have_changed() -> None:
    operator = engine(Pair)
    operator.take(fed("a b c", key="k"))
    operator.take(fed("c b", key="other"))
    assert set(operator.changed()) == {"k"}
    assert set(operator.changed()) == set()
    assert operator.state("k") is None


def test_a_key_whose_time_is_over_has_no_state() -> None:
    operator = engine(Pair)
    operator.take(fed("a@0"))
    assert operator.state("k") is not None
    operator.changed()
    operator.take(fed("c@11", key="other", start=2))
    assert operator.state("k") is None
    assert "k" in set(operator.changed())


def test_a_condition_that_raises_names_pattern_step_event_and_key() -> None:
    with pytest.raises(
        ConditionFailed, match=r"Failing\.b: .* ZeroDivisionError for the Letter at position 2 of key 'k'"
    ) as failed:
        engine(Failing).take(fed("a c"))
    error = failed.value
    assert (error.name, error.step, error.position, error.key, error.done) == ("Failing", "b", 2, "k", None)
    assert isinstance(error.__cause__, ZeroDivisionError)


def test_an_event_whose_condition_raises_is_as_if_it_had_not_come() -> None:
    operator = engine(Failing)
    operator.take(fed("a1@0"))
    before = operator.state("k")
    with pytest.raises(ConditionFailed):
        operator.take(fed("c@1", start=2))
    assert operator.state("k") == before
    assert text(operator.take(fed("b1@2", start=3))) == ["a1 b1"]


def test_what_was_found_before_the_condition_raised_is_not_lost() -> None:
    operator = engine(Failing)
    with pytest.raises(ConditionFailed) as failed:
        operator.take(fed("a1 b1 a2 c b2"))
    assert text(list(failed.value.outputs)) == ["a1 b1"]
    assert failed.value.position == 4
    assert text(operator.take(fed("b2@4", start=5))) == ["a2 b2"]


class Judged(Pattern, within=TEN):
    a = one(Letter, is_("a"))
    b = absent(Letter, is_("b"))

    def where(self) -> bool:
        return 6 // self.a.value > 0


def test_a_judgement_that_raises_at_a_deadline_loses_that_match_alone() -> None:
    operator = engine(Judged)
    operator.take(fed("a@0 a1@1 a@2 a2@3"))
    found: list[Output] = []
    failed: list[int] = []
    while True:
        try:
            found += operator.advance(20)
            break
        except ConditionFailed as error:
            found += error.outputs
            failed.append(error.position)
    assert text(found) == ["a1", "a2"]
    assert failed == [1, 3]


def test_a_judgement_that_raises_while_events_are_taken_says_how_many_were() -> None:
    operator = engine(Judged)
    with pytest.raises(ConditionFailed) as failed:
        operator.take(fed("a@0 c@5 c@12 b@13"))
    assert failed.value.done == 2
    assert failed.value.position == 1


def test_the_oldest_beginning_is_given_up_beyond_the_bound_and_counted() -> None:
    class Few(Pattern, within=TEN, runs=2, skip="none"):
        a = one(Letter, is_("a"))
        b = one(Letter, is_("b"))

    operator = engine(Few)
    assert text(operator.take(fed("a1 a2 a3 b"))) == ["a2 b", "a3 b"]
    assert operator.given_up == 1


def test_keys_do_not_see_each_other() -> None:
    operator = engine(Pair)
    assert operator.take(fed("a@0", key="one")) == []
    assert operator.take(fed("b@1", key="two", start=2)) == []
    assert text(operator.take(fed("b@2", key="one", start=3))) == ["a b"]


class Renamed(Letter):
    pass


class Other(Event, key="k"):
    k: str


def test_a_subclass_is_taken_where_its_parent_is_and_other_types_are_not_there() -> None:
    class Strict(Pattern, within=TEN):
        a = one(Letter, is_("a"))
        b = one(Renamed, is_("b"), contiguity="strict")

    given: list[Event] = [Renamed(k="k", kind="a"), Other(k="k"), Renamed(k="k", kind="b")]
    outputs = engine(Strict).take(Batch(events=given, times=[1, 2, 3], positions=[1, 2, 3]))
    assert len(outputs) == 1


def test_two_ways_to_the_same_events_are_one_match() -> None:
    class Twice(Pattern, within=TEN, skip="none"):
        a = one(Letter, is_("a"))
        b = either(one(Letter, is_("b")), several(Letter, is_("b"), times=(1, 2)), one(Letter, is_("b")))

    found = engine(Twice).take(fed("a b1 b2 c"))
    ids = [output.id for output in found if isinstance(output, Found)]
    assert len(ids) == len(set(ids))


def test_the_identity_is_of_the_pattern_the_key_and_what_was_taken() -> None:
    (found,) = engine(Pair).take(fed("a b"))
    assert isinstance(found, Found)
    assert found.id == identity("Pair", "k", found.steps)
    assert found.id != identity("Pair", "other", found.steps)
    assert found.id != identity("Other", "k", found.steps)
    assert len(found.id) == 16


def test_matches_are_equal_whatever_was_read_of_them() -> None:
    (found,) = engine(Pair).take(fed("a b"))
    (other,) = engine(Pair).take(fed("a c b"))
    assert isinstance(found, Found) and isinstance(other, Found)
    one, same, another = (match_of(Pair.__ensue_pattern__, each) for each in (found, found, other))
    assert UUID(one.id).bytes == found.id
    assert one.ended - one.started == timedelta(microseconds=found.ended - found.started)
    assert one == same and hash(one) == hash(same) and repr(one) == repr(same)
    assert one != another and one.id != another.id


# --------------------------------------------------------------------------------------------------------------- finding


class Round(Pattern, unbounded=True):
    a = one(Letter, is_("a"))
    b = optional(Letter, is_("b"))


class Rounds(Pattern, within=TEN_SECONDS):
    rounds = group(Round, times=2)
    end = either(one(Letter, is_("x")), several(Letter, is_("y"), times=2))
    silence = absent(Letter, is_("z"))


def test_a_match_reads_as_its_class_says() -> None:
    (match,) = find(Rounds, events("a1 b1 a2 y1 q y2"))
    assert shown(match) == "([a1 b1] [a2 -]) (y1 y2) -"
    assert isinstance(match.rounds[0], Round)
    assert match.rounds[1].b is None
    assert match.rounds[0].ended == second(1)
    assert match.key == "k"
    assert match.started == second(0)
    assert match.ended == second(10)
    assert match == find(Rounds, events("a1 b1 a2 y1 q y2"))[0]
    assert repr(match).startswith("Rounds(k, rounds=")


def test_events_are_taken_in_the_order_of_their_times() -> None:
    assert [shown(match) for match in find(Pair, [*events("b@3"), *events("a@2.999999")])] == ["a b"]


def test_time_has_come_as_far_as_is_said() -> None:
    assert find(Rounds, events("a1 a2 x"), until=second(9.9)) == []
    assert [seconds_of(match.ended) for match in find(Rounds, events("a1 a2 x"), until=second(10))] == [10]


def test_beginnings_without_an_end_say_what_they_waited_for() -> None:
    out, younger = timed_out(Rounds, events("a1 b1 a2 q"))
    assert (younger.waiting_for, younger.deadline) == ("rounds", second(12))
    assert out.waiting_for == "end"
    assert out.deadline == second(10)
    assert shown(out.match) == "([a1 b1] [a2 -]) - -"


def test_a_time_without_its_zone_and_an_event_without_its_key_are_refused() -> None:
    with pytest.raises(Misuse, match="no time zone"):
        find(Pair, [(second(0).replace(tzinfo=None), Letter(k="k", kind="a"))])
    with pytest.raises(InvalidEvent):
        find(Pair, [(second(0), Letter(k="", kind="a"))])
    with pytest.raises(Misuse, match="when was event 1, a Letter"):
        find(Pair, [Letter(k="k", kind="a")])


def test_a_condition_that_must_be_called_sees_the_match_as_it_is() -> None:
    seen: list[Any] = []

    class Watched(Pattern, within=TEN):
        a = one(Letter, is_("a"))
        o = optional(Letter, is_("o"))
        b = several(Letter, is_("b"), times=2)

        @b.where
        def look(self, letter: Letter) -> bool:
            seen.append((self.key, self.a.value, self.o, len(self.b)))
            return True

    (found,) = engine(Watched).take(fed("a7 b1 b2"))
    assert isinstance(found, Found)
    assert seen[0] == ("k", 7, None, 0)
    assert seen[-1] == ("k", 7, None, 1)
    assert shown(match_of(Watched.__ensue_pattern__, found)) == "a7 - (b1 b2)"
