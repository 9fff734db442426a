"""What `why_not` says of random patterns and streams is so by the oracle, which tries all that could be taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

from ensue.patterns.definition import Definition, Take
from ensue.patterns.explained.nearest import Stream, nearest
from ensue.patterns.explained.reasons import Reason, WhyNot, nearest_miss
from ensue.patterns.operator import Taken
from tests.patterns.generating import draw_shape, draw_stream
from tests.patterns.oracle import History, Move, Timed, _Oracle
from tests.patterns.shapes import build

PATTERNS = 60


class Case:
    """A drawn pattern, the events of one key, and how far time has come."""

    def __init__(self, definition: Definition, events: list[Timed], over: int) -> None:
        self.definition, self.events, self.over = definition, events, over
        self.oracle = _Oracle(definition, events, over)
        self.stream = Stream("k", tuple(Taken(*timed) for timed in events), over)
        self.numbers = {timed.position: number for number, timed in enumerate(events)}
        self.matches = self.oracle._matches()

    def history(self, taken: list[tuple[str, Taken]]) -> list[History]:
        """The histories that took these events by these steps."""
        wanted = [(step, one.position) for step, one in taken]
        return [
            history
            for history, _ in self.oracle.runs
            if [(self.oracle.element(place).name, self.events[at].position) for at, place in history] == wanted
        ]

    def ruled_out(self, beginning: int) -> bool:
        """Whether a match has this beginning, or rules it out."""
        return any(
            match.history[0][0] == beginning or self.oracle.rules_out(match, beginning) for match in self.matches
        )

    def moves(self, history: History) -> list[Move]:
        return self.oracle.moves(history[-1][1])


def cases(start: int, many: int = PATTERNS) -> Iterator[Case]:
    for seed in range(start, start + many):
        chance = Random(seed)
        shape = draw_shape(chance)
        definition = build(shape).__ensue_pattern__
        for _ in range(2):
            stream = draw_stream(chance, shape, most=7)
            for key in sorted({timed.event.k for timed in stream}):  # type: ignore[attr-defined]
                events = [
                    timed
                    for timed in stream
                    if timed.event.k == key and isinstance(timed.event, definition.events)  # type: ignore[attr-defined]
                ]
                if not events:
                    continue
                yield Case(definition, events, events[-1].time + chance.choice((0, 3, 1000)))


def test_every_beginning_that_no_match_rules_out_is_found_and_no_other() -> None:
    for case in cases(0):
        begun = {history[0][0] for history, _ in case.oracle.runs}
        found = {case.numbers[position] for position in nearest(case.definition, case.stream)[1]}
        assert found <= begun, (case.definition, case.events)
        assert all(case.ruled_out(at) for at in begun - found), (case.definition, case.events)


def test_what_a_run_is_said_to_have_taken_it_could_take() -> None:
    for case in cases(1000):
        for run in nearest(case.definition, case.stream)[1].values():
            assert case.history(list(run.by_step)), (case.definition, case.events, run)


def test_no_run_of_the_beginning_came_farther() -> None:
    compared = 0
    for case in cases(2000):
        if not all(isinstance(one.node, Take) for one in case.definition.elements):
            continue
        for position, run in nearest(case.definition, case.stream)[1].items():
            if case.ruled_out(case.numbers[position]):
                continue
            best = max(
                _waits(case.definition, history)
                for history, _ in case.oracle.runs
                if case.events[history[0][0]].position == position
            )
            level = run.stage.key
            assert _waits_at(case.definition, *level) == best, (case.definition, case.events, run)
            compared += 1
    assert compared > 25


def _waits(definition: Definition, history: History) -> tuple[int, int]:
    """For which element a history waits, and how many of that it has."""
    level = history[-1][1][0]
    return _waits_at(definition, level.at, (level.nth + 1, ()))


def _waits_at(definition: Definition, at: int, within: Any) -> tuple[int, int]:
    if within[0] < definition.elements[at].low:
        return at, within[0]
    for later in range(at + 1, len(definition.elements)):
        if definition.elements[later].low > 0 and not definition.elements[later].absent:
            return later, 0
    return len(definition.elements), 0


def test_an_event_is_said_to_be_of_a_match_exactly_if_it_is() -> None:
    for case in cases(3000, 30):
        taken = {case.events[at].position for match in case.matches for at, _ in match.history}
        for event in case.stream.events:
            said = nearest_miss(case.definition, case.stream, event)
            assert (said.reasons[0].cause == "matched") == (event.position in taken), (
                case.definition,
                case.events,
                said,
            )


def test_every_reason_that_is_given_is_so() -> None:
    causes: Counter[str] = Counter()
    for case in cases(4000, 150):
        misses = [nearest_miss(case.definition, case.stream, event) for event in (None, *case.stream.events)]
        for miss in misses:
            for reason in miss.reasons:
                causes[reason.cause] += 1
                histories = case.history(sorted_taken(miss))
                problem = wrong(case, histories, reason)
                assert not problem, (problem, case.definition, case.events, case.over, miss)
    assert set(causes) >= {
        "failed",
        "forbidden",
        "too_late",
        "expired",
        "waiting",
        "between",
        "not_begun",
        "ruled_out",
    }, causes
    assert causes["blocked"] < sum(causes.values()) / 50, causes


def sorted_taken(miss: WhyNot) -> list[tuple[str, Taken]]:
    return sorted(miss.took, key=lambda one: (one[1].time, one[1].position))


def wrong(case: Case, histories: list[History], reason: Reason) -> str:
    """What is wrong with a reason, by the oracle."""
    oracle = case.oracle
    at = None if reason.event is None else case.numbers[reason.event.position]
    moves = [(history, move) for history in histories for move in case.moves(history)]
    ways = [(history, move) for history, move in moves if move.place is not None]
    match reason.cause:
        case "forbidden":
            assert at is not None
            held = any(oracle.forbidden(one, history, at) for history, move in moves for one in move.absences)
            return "" if held else "nothing forbids it"
        case "between":
            assert at is not None
            held = any(
                at == history[-1][0] + 1
                and move.contiguity == "strict"
                and case.events[at].time < oracle.bound(move.place or (), history)
                for history, move in ways
            )
            return "" if held else "it did not have to come at once"
        case "until":
            assert at is not None
            held = any(oracle.ended(move.place, history, at) for history, move in ways if move.place is not None)
            return "" if held else "its until does not hold"
        case "failed":
            assert at is not None
            if not histories:  # nothing had begun
                fits = [oracle.fits(move.place, (), at) for move in oracle.beginnings if move.place]
            else:
                fits = [
                    oracle.fits(move.place or (), tuple(one for one in history if one[0] < at), at)
                    for history, move in ways
                    if _is(case, move, reason)
                ]
            return "it holds" if not fits or all(fits) else ""
        case "too_late":
            assert at is not None
            bounds = {oracle.bound(move.place, history) for history, move in ways if move.place is not None}
            late = any(case.events[at].time - bound == reason.by for bound in bounds)
            return "" if late and reason.by >= 0 else f"it came at {case.events[at].time}, and the bounds are {bounds}"
        case "expired":
            bounds = {oracle.bound(move.place or (), history) for history, move in ways if _is(case, move, reason)}
            return "" if bounds and max(bounds) <= case.over else f"time is at {case.over}, and the bounds are {bounds}"
        case "waiting":
            bounds = {oracle.bound(move.place or (), history) for history, move in ways if _is(case, move, reason)}
            bounds = bounds or {oracle.over_at(history).time for history in histories}
            return "" if max(bounds) > case.over else f"time is at {case.over}, and the bounds are {bounds}"
        case "ruled_out":
            beginnings = {history[0][0] for history in histories}
            held = any(oracle.rules_out(match, beginning) for match in case.matches for beginning in beginnings)
            return "" if held else "no match rules it out"
        case "not_begun":
            assert at is None or not histories
            return ""
        case _:
            return ""


def _is(case: Case, move: Move, reason: Reason) -> bool:
    assert move.place is not None
    return case.oracle.element(move.place).name in reason.step.split(" or ")
