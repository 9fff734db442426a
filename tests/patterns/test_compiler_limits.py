"""What the compiled form promises beside what it finds: errors, memory, what its source says, and which patterns it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ensue import Event, minutes
from ensue.errors import ConditionFailed, InvalidEvent
from ensue.patterns import Pattern, absent, either, one, optional, several, total
from ensue.patterns.compiled.compiler import Compiled, Form, NoPlaces, Plain, compiled
from ensue.patterns.operator import Batch, Operator, Output
from ensue.patterns.searching.engine import Engine
from ensue.patterns.sharing import PatternSet

MINUTE = 60_000_000


class Used(Event, key="card"):
    card: str
    kind: int = 0
    value: float = 1.0


class Abroad(Used):
    """Is a use as well."""


class Ratio(Pattern, within=minutes(5)):
    first = one(Used, lambda used: used.kind == 1)
    steps = several(Used, lambda used: 10 / used.value > 5, times=2)
    last = one(Used, lambda used: used.kind == 2 and 1 / used.value < 1)


class Twice(Pattern, within=minutes(5)):
    a = one(Used, lambda used: used.kind == 1)
    b = one(Used, lambda used: 1 / used.value > 0)


class Three(Pattern, within=minutes(5), runs=3):
    a = one(Used, lambda used: used.kind == 1)
    b = one(Used, lambda used: used.kind == 2)
    c = one(Used, lambda used: used.kind == 3)


class Silent(Pattern, within=minutes(5), runs=2):
    asked = one(Used, lambda used: used.kind == 1)
    answer = absent(Used, lambda used: used.kind == 2)


def batch(rows: Sequence[tuple[str, int, float]], every: int = MINUTE, kind: type[Used] = Used) -> Batch:
    events = [kind(card=card, kind=number, value=value) for card, number, value in rows]
    return Batch(events, [at * every for at in range(len(rows))], range(len(rows)))


def fed(operator: Operator, rows: Sequence[tuple[str, int, float]]) -> list[Any]:
    """All that it gives, with the errors in their places."""
    given, whole, start = list[Any](), batch(rows, every=1), 0
    while start < len(rows):
        part = Batch(whole.events[start:], whole.times[start:], whole.positions[start:])
        try:
            return given + operator.take(part)
        except ConditionFailed as error:
            given += [*error.outputs, (str(error), error.step, error.position, error.key)]
            start = error.position + 1
    return given


@pytest.mark.parametrize("pattern", [Ratio, Twice])
def test_a_condition_that_raises_is_told_as_the_engine_tells_it_and_the_rest_goes_on(pattern: type[Pattern]) -> None:
    rows = [
        ("a", 1, 1.0),
        ("b", 1, 1.0),
        ("a", 0, 0.0),
        ("a", 0, 1.0),
        ("b", 0, 0.0),
        ("a", 0, 1.0),
        ("a", 2, 3.0),
        ("b", 2, 4.0),
    ]
    definition = pattern.__ensue_pattern__
    found = fed(compiled(definition), rows)
    assert found == fed(Engine(definition), rows)
    assert any(isinstance(one, tuple) for one in found)
    assert not all(isinstance(one, tuple) for one in found)


def test_a_condition_is_not_asked_for_an_event_that_nothing_waits_for() -> None:
    assert fed(compiled(Ratio.__ensue_pattern__), [("a", 0, 0.0), ("b", 2, 0.0)]) == []


def test_an_event_without_its_key_is_an_error_and_one_that_matters_to_nothing_is_not() -> None:
    events: list[Event] = [Used(card="", kind=1), Used(card="", kind=9)]
    operator = compiled(Three.__ensue_pattern__)
    assert operator.take(Batch(events[1:], [0], [1])) == []
    with pytest.raises(InvalidEvent):
        operator.take(Batch(events[:1], [0], [2]))


@pytest.mark.parametrize("pattern", [Three, Silent])
def test_beyond_the_bound_of_runs_the_oldest_is_given_up_as_the_engine_does(pattern: type[Pattern]) -> None:
    rows = [("a", kind, 1.0) for kind in (1, 1, 2, 1, 1, 1, 2, 3, 3)]
    mine, other = compiled(pattern.__ensue_pattern__), Engine(pattern.__ensue_pattern__)
    outputs = [[*one.take(batch(rows)), *one.advance(10**12)] for one in (mine, other)]
    assert outputs[0] == outputs[1]
    assert mine.given_up == other.given_up > 0


@pytest.mark.parametrize("pattern", [Ratio, Twice, Three, Silent])
def test_of_keys_that_never_come_again_nothing_is_kept_for_long(pattern: type[Pattern]) -> None:
    operator = compiled(pattern.__ensue_pattern__)
    operator.take(batch([(f"k{number}", 1, 1.0) for number in range(20_000)], every=100_000))  # 33 minutes
    begun = operator.begun if isinstance(operator, Plain) else operator.waiting[0]
    assert len(begun) <= 2 * 3_000 + 4096
    operator.advance(10**12)
    operator.advance(2 * 10**12)
    assert (operator.changed(), operator.due()) == (set(), None)


def test_subclasses_count_and_other_types_do_not() -> None:
    class Other(Event, key="card"):
        card: str
        kind: int = 1

    rows = [("a", 1, 1.0), ("a", 2, 1.0), ("a", 3, 1.0)]
    found: list[list[Output]] = []
    for make in (compiled, Engine):
        operator: Operator = make(Three.__ensue_pattern__)
        events: list[Event] = [*batch(rows[:1], kind=Abroad).events, Other(card="a"), *batch(rows[1:]).events]
        found.append(operator.take(Batch(events, range(4), range(4))))
    assert found[0] == found[1]
    assert len(found[0]) == 1


def test_no_value_of_a_pattern_becomes_text_of_its_program() -> None:
    evil = "'\nimport os\n"

    class Careful(Pattern, within=minutes(5), name="Careful"):
        a = one(Used, lambda used: used.card == evil)
        b = one(Used, lambda used: used.value > 123456.5)

    source = compiled(Careful.__ensue_pattern__).source()
    assert "import" not in source
    assert "123456" not in source
    assert "e.card == c" in source


def test_patterns_of_one_form_share_their_program() -> None:
    class Other(Pattern, within=minutes(9)):
        a = one(Used, lambda used: used.kind == 7)
        b = one(Used, lambda used: used.kind == 8)
        c = one(Used, lambda used: used.kind == 9)

    assert compiled(Other.__ensue_pattern__).source() == compiled(Three.__ensue_pattern__).source()


class Either(Pattern, within=minutes(5)):
    a = either(one(Used, lambda used: used.kind == 1), one(Used, lambda used: used.kind == 2))


class Both(Pattern, within=minutes(5)):
    a = one(Used)
    b = optional(Used, lambda used: used.kind > 1)
    c = several(Used, lambda used: used.kind > 2, times=2)


class Opaque(Pattern, within=minutes(5)):
    a = several(Used, times=2)
    b = one(Used)

    @b.where
    def same(self, used: Used) -> bool:
        return str(self.a) == str(used)


class Behind(Pattern, within=minutes(5)):
    a = several(Used, lambda used: used.kind == 1)
    b = one(Used, lambda used: used.kind == 2)
    c = absent(Used, lambda used: used.kind == 3)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (Either, "a takes more than single events"),
        (Both, "b and c may take the same event, each in a run of its own"),
        (Opaque, "a condition of b that sees the match so far is opaque"),
        (Behind, "an event that b may take can also be left out, for one that a takes behind it"),
    ],
)
def test_what_needs_more_than_one_run_is_refused_with_the_reason(pattern: type[Pattern], why: str) -> None:
    with pytest.raises(NoPlaces) as refused:
        compiled(pattern.__ensue_pattern__)
    assert str(refused.value) == why


class Spent(Pattern, within=minutes(5)):
    some = several(Used, lambda used: used.kind == 1, times=(2, 4), until=lambda used: used.value < 0)
    end = one(Used, lambda used: used.kind == 2)

    @end.where
    def enough(self, used: Used) -> bool:
        return total(self.some, lambda each: each.value) > 2.0


def test_aggregates_are_kept_as_events_are_taken() -> None:
    operator = compiled(Spent.__ensue_pattern__)
    assert isinstance(operator, Compiled)
    assert not isinstance(operator, Plain)
    assert "r[4] = r[4] + v4" in operator.source()
    rows = [("a", 1, 0.5), ("a", 1, 1.0), ("a", 1, 1.25), ("a", 2, 1.0), ("a", 2, 1.0)]
    assert operator.take(batch(rows)) == Engine(Spent.__ensue_pattern__).take(batch(rows)) != []


def test_state_of_the_general_engine_is_none_of_the_compiled_one() -> None:
    definition = Twice.__ensue_pattern__
    places = Form(definition, timeouts=False, plainly=False)
    assert len({definition.fingerprint, compiled(definition).fingerprint, places.fingerprint}) == 3


def test_operators_of_one_pattern_share_their_program() -> None:
    one_of_them, other = compiled(Three.__ensue_pattern__), compiled(Three.__ensue_pattern__)
    assert one_of_them.form is other.form
    assert one_of_them.waiting is not other.waiting


@pytest.mark.parametrize("pattern", [Twice, Silent])
def test_a_pattern_of_two_steps_means_the_same_in_its_own_program(pattern: type[Pattern]) -> None:
    rows = [(card, kind, 1.0) for kind in (1, 2, 1, 1, 9, 1, 2, 2, 1) for card in "ab"]
    plain, places = (
        compiled(pattern.__ensue_pattern__),
        Compiled(Form(pattern.__ensue_pattern__, timeouts=False, plainly=False)),
    )
    assert isinstance(plain, Plain)
    outputs = [[*one.take(batch(rows)), *one.advance(10**12)] for one in (plain, places)]
    assert outputs[0] == outputs[1] != []


class Swinging(Pattern, within=minutes(60), skip="past_last"):
    up = one(Used, lambda used: used.kind == 1)
    down = one(Used, lambda used: used.kind == 2)
    again = one(Used, lambda used: used.kind == 1)


def test_the_last_event_of_a_match_begins_none_where_that_is_ruled_out() -> None:
    rows = [("a", kind, 1.0) for kind in (1, 2, 1, 2, 1)]
    outputs = [make(Swinging.__ensue_pattern__).take(batch(rows)) for make in (compiled, Engine)]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 1


class Until(Pattern, within=minutes(60)):
    some = several(Used, lambda used: used.kind == 1, until=lambda used: used.kind == 9)
    end = one(Used, lambda used: used.kind == 2)


def test_an_event_that_only_ends_a_step_is_relevant() -> None:
    rows = [("a", kind, 1.0) for kind in (1, 5, 9, 1, 2)]
    wanted = Engine(Until.__ensue_pattern__).take(batch(rows))
    assert PatternSet([Until.__ensue_pattern__]).take(batch(rows)) == [wanted]
    assert [len(one.steps["some"]) for one in wanted] == [1, 1]  # type: ignore[union-attr, arg-type]


class Hurried(Pattern, within=minutes(60)):
    a = one(Used, lambda used: used.kind == 1)
    b = several(Used, lambda used: used.kind == 2, within=minutes(2))
    c = one(Used, lambda used: used.kind == 3, within=minutes(9))


def test_where_deadlines_of_several_ways_decide_the_general_engine_does() -> None:
    assert compiled(Hurried.__ensue_pattern__)
    with pytest.raises(NoPlaces):
        compiled(Hurried.__ensue_pattern__, timeouts=True)
