"""Time: events come out in their order, once, and a replay gives what the live run gave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue import Event
from ensue.errors import ConditionFailed, DefinitionError
from ensue.patterns.operator import Batch, Closed, Output, Taken, Untimely
from ensue.patterns.ordering import AHEAD, Arrivals, Failed, Ordered, Watermarks, ordered

SECOND = 1_000_000
DISORDER, IDLE = 3 * SECOND, 5 * SECOND
START = 1_000 * SECOND


class Beat(Event, key="sensor"):
    sensor: str
    good: bool = True


@dataclass
class Silences:
    """An operator that says of each event that it came, and of each key when it was silent for ten seconds."""

    name: str = "Silences"
    fingerprint: bytes = b""
    events: tuple[type[Event], ...] = (Beat,)
    until: dict[str, int] = field(default_factory=dict)
    last: tuple[int, int] = (0, 0)
    told: int = 0
    touched: set[str] = field(default_factory=set)

    def take(self, batch: Batch) -> list[Output]:
        out: list[Output] = []
        assert batch.keys is not None
        for time, position, key, event in zip(batch.times, batch.positions, batch.keys, batch.events, strict=True):
            assert (time, position) > self.last, "the order is that of time and position"
            assert time >= self.told, "nothing comes before what was over"
            self.last = (time, position)
            out += self._over(time)
            if not (isinstance(event, Beat) and event.good):
                raise ConditionFailed("bad", name=self.name, step="", position=position, key=key, outputs=out)
            out.append(_said(key, "came", time, position))
            self.until[key] = time + 10 * SECOND
            self.touched.add(key)
        return out

    def advance(self, time: int) -> list[Output]:
        assert time >= self.told
        self.told = time
        return self._over(time)

    def correct(self, taken: Taken, key: str) -> list[Output]:
        assert taken.time < self.told
        return [_said(key, "late", taken.time, taken.position)]

    def _over(self, time: int) -> list[Output]:
        over = sorted((until, key) for key, until in self.until.items() if until <= time)
        for _, key in over:
            del self.until[key]
            self.touched.add(key)
        return [_said(key, "silent", until, 0) for until, key in over]

    def due(self) -> int | None:
        return min(self.until.values(), default=None)

    def changed(self) -> Iterable[str]:
        touched, self.touched = self.touched, set()
        return touched

    def state(self, key: str) -> Any:
        return self.until.get(key)

    def restore(self, key: str, state: Any) -> None:
        self.until[key] = state


def _said(key: str, what: str, time: int, position: int) -> Closed:
    return Closed(id=b"", key=key, start=time, end=time, values={"what": what, "position": position})


Arrival = tuple[int, int, int, str, bool]
"""Own time, recorded, position, key, good."""


def arrivals_of(some: list[Arrival]) -> Arrivals:
    times, recorded, positions, keys, good = zip(*some, strict=True) if some else ((), (), (), (), ())
    events = [Beat(sensor=key, good=fine) for key, fine in zip(keys, good, strict=True)]
    return Arrivals(events, times, recorded, positions, keys, None, [key[:1] for key in keys])


@st.composite
def streams(draw: st.DrawFn) -> list[Arrival]:
    """Arrivals: in order, backwards, equal, far behind and far ahead."""
    found: list[Arrival] = []
    recorded = START
    for position in range(1, draw(st.integers(0, 14)) + 1):
        recorded += draw(st.sampled_from((0, 0, 1, SECOND // 2, SECOND, 4 * SECOND, 30 * SECOND)))
        behind = draw(st.sampled_from((0, 0, 0, 1, SECOND, 3 * SECOND, 4 * SECOND, 12 * SECOND, -SECOND, -4 * SECOND)))
        behind = draw(st.sampled_from((behind, behind, behind, behind, 400 * SECOND, -DISORDER - AHEAD - 1)))
        key = draw(st.sampled_from(("a1", "a2", "b1")))
        found.append((recorded - behind, recorded, position, key, draw(st.integers(0, 9)) > 0))
    return found


MODES: tuple[Watermarks, ...] = ("all", "source", "key")


def new(mode: Watermarks, lateness: int = 0) -> Ordered:
    return ordered(Silences, time="event", disorder=DISORDER, idle=IDLE, watermark=mode, lateness=lateness)


def told(outcomes: Iterable[object]) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for one in outcomes:
        match one:
            case Closed():
                found.append((one.values["what"], one.key, one.start, one.values["position"]))
            case Untimely():
                found.append(("untimely", one.taken.position, one.by))
            case Failed():
                found.append(("failed", one.error.position, one.taken is not None))
            case _:
                raise AssertionError(one)
    return found


END = START + 10_000 * SECOND


def replayed(mode: Watermarks, stream: list[Arrival], lateness: int = 0) -> list[tuple[object, ...]]:
    one = new(mode, lateness)
    return told(one.take(arrivals_of(stream)) + one.tick(END))


@settings(deadline=None)
@given(st.sampled_from(MODES), streams(), st.data(), st.sampled_from((0, 20 * SECOND)))
def test_a_replay_gives_what_the_live_run_gave_whenever_that_looked_at_its_clock(
    mode: Watermarks, stream: list[Arrival], data: st.DataObject, lateness: int
) -> None:
    live, found, rest = new(mode, lateness), list[object](), list(stream)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += live.take(arrivals_of(rest[:size]))
        before, rest = rest[size - 1][1], rest[size:]
        if rest:
            found += live.tick(data.draw(st.integers(before, rest[0][1])))
    assert told([*found, *live.tick(END)]) == replayed(mode, stream, lateness)


@settings(deadline=None)
@given(st.sampled_from(MODES), streams(), st.data())
def test_a_restart_anywhere_goes_on_as_if_there_had_been_none(
    mode: Watermarks, stream: list[Arrival], data: st.DataObject
) -> None:
    one, found, kept, rest = new(mode), list[object](), dict[str, Any](), list(stream)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += one.take(arrivals_of(rest[:size]))
        rest = rest[size:]
        kept.update((key, one.state(key)) for key in one.changed())
        progress, one = one.progress(), new(mode)
        one.resume(progress)
        for key, state in kept.items():
            if state is not None:
                one.restore(key, state)
    assert told([*found, *one.tick(END)]) == replayed(mode, stream)


@settings(deadline=None)
@given(st.sampled_from(MODES), streams())
def test_every_event_comes_out_once(mode: Watermarks, stream: list[Arrival]) -> None:
    found = replayed(mode, stream)
    positions = [one[-1] for one in found if one[0] == "came"]
    positions += [one[1] for one in found if one[0] in ("untimely", "failed")]
    assert sorted(map(str, positions)) == sorted(str(one[2]) for one in stream)


@settings(deadline=None)
@given(st.sampled_from(MODES), streams())
def test_what_is_late_is_what_the_formula_says(mode: Watermarks, stream: list[Arrival]) -> None:
    """From the formula alone, for each event anew from all before it."""
    found = {one[1]: one[2] for one in replayed(mode, stream) if one[0] == "untimely"}
    assert found == {
        position: by for (_, _, position, _, _), by in zip(stream, lateness(mode, stream), strict=True) if by
    }


def lateness(mode: Watermarks, stream: list[Arrival]) -> list[int]:
    """How late each is, by trying each moment of the clock."""
    answers: list[int] = []
    marks: dict[str, int] = {}
    seen: list[Arrival] = []
    for time, recorded, position, key, good in stream:
        x = key if mode == "key" else ""
        if time > recorded + DISORDER + AHEAD:
            answers.append(recorded - time)
            continue
        if seen:
            newest = max(min(one[0], one[1]) for one in seen)
            arrived = next(one[1] for one in seen if min(one[0], one[1]) == newest)
            floor = newest + recorded - arrived - IDLE - DISORDER
            marks["floor"] = max(floor, marks.get("floor", floor))
            mark = max(marks["floor"], own_mark(mode, key, seen, newest + recorded - arrived, newest))
            marks[x] = max(mark, marks.get(x, mark))
        known = [marks[one] for one in (x, "floor") if one in marks]
        answers.append(max(0, max(known) - time) if known else 0)
        seen.append((time, recorded, position, key, good))
    return answers


def own_mark(mode: Watermarks, key: str, seen: list[Arrival], present: int, newest: int) -> int:
    if mode == "all":
        return newest - DISORDER
    if mode == "key":
        return max((min(one[0], one[1]) for one in seen if one[3] == key), default=-END) - DISORDER
    sources = newest_of_sources(seen)
    return min((one for one in sources.values() if one > present - IDLE), default=-END) - DISORDER


def newest_of_sources(seen: list[Arrival]) -> dict[str, int]:
    """A source that was behind begins anew with what came since."""
    return {
        source: max(min(one[0], one[1]) for one in seen if one[3][:1] == source)
        for source in {one[3][:1] for one in seen}
    }


def test_the_order_of_the_log_passes_columns_through_as_they_are() -> None:
    seen: list[Batch] = []

    class Spy(Silences):
        def take(self, batch: Batch) -> list[Output]:
            seen.append(batch)
            return []

    one = ordered(Spy)
    given_ = arrivals_of([(5, 7, 1, "a", True), (3, 8, 2, "a", True)])
    assert one.take(given_) == []
    assert seen[0].events is given_.events
    assert seen[0].times is given_.recorded


def test_a_clock_years_ahead_is_left_out_and_moves_nothing() -> None:
    year = 365 * 24 * 3600 * SECOND
    one = ordered(Silences, time="event", disorder=DISORDER)
    found = one.take(arrivals_of([(START + year, START, 1, "a", True), (START, START, 2, "b", True)]))
    assert told(found) == [("untimely", 1, -year)]
    assert told(one.tick(START + DISORDER)) == [("came", "b", START, 2)]


def test_one_that_is_a_little_ahead_makes_nobody_late() -> None:
    one = ordered(Silences, time="event", disorder=DISORDER)
    ahead = (START + 60 * SECOND, START, 1, "a", True)
    behind = (START - DISORDER, START, 2, "b", True)
    assert told(one.take(arrivals_of([ahead, behind]))) == [("came", "b", START - DISORDER, 2)]


def test_silence_is_noticed_while_everything_is_silent() -> None:
    one = new("all")
    assert one.take(arrivals_of([(START, START, 1, "a", True)])) == []
    due = one.due()
    assert due == START + DISORDER + IDLE
    assert told(one.tick(due)) == [("came", "a", START, 1)]
    due = one.due()
    assert due == START + 10 * SECOND + DISORDER + IDLE
    assert one.tick(due - 1) == []
    assert told(one.tick(due)) == [("silent", "a", START + 10 * SECOND, 0)]
    assert one.due() is None


@settings(deadline=None)
@given(st.sampled_from(MODES), streams())
def test_what_waits_comes_when_it_was_said_to_be_due(mode: Watermarks, stream: list[Arrival]) -> None:
    one = new(mode)
    one.take(arrivals_of(stream))
    due, looked = one.due(), 0
    while due is not None and looked < 100:
        assert one.tick(due - 1) == []
        one.tick(due)
        due, looked = one.due(), looked + 1
    assert looked < 100
    assert one.tick(END) == []


def test_the_slowest_source_counts_until_it_is_too_far_behind() -> None:
    one = new("source")
    one.take(arrivals_of([(START, START, 1, "a", True), (START, START, 2, "b", True)]))
    one.take(arrivals_of([(START + 4 * SECOND, START + 4 * SECOND, 3, "a", True)]))
    assert one.watermark() == START - DISORDER
    one.take(arrivals_of([(START + 6 * SECOND, START + 6 * SECOND, 4, "a", True)]))
    assert one.watermark() == START + 6 * SECOND - DISORDER


def test_a_key_that_was_away_is_on_time_by_its_own_time() -> None:
    one = new("key")
    minute = 60 * SECOND
    one.take(arrivals_of([(START, START, 1, "a", True), (START, START, 2, "b", True)]))
    out = one.take(arrivals_of([(START + 4 * SECOND, START + 4 * SECOND, 3, "b", True)]))
    out += one.take(arrivals_of([(START + SECOND, START + 4 * SECOND, 4, "a", True)]))
    assert [said for said in told(out) if said[0] == "untimely"] == []
    assert told(one.take(arrivals_of([(START + SECOND, START + minute, 5, "a", True)])))[-1] == (
        "untimely",
        5,
        minute - SECOND - IDLE - DISORDER,
    )


def test_keys_of_which_nothing_waits_are_forgotten() -> None:
    one = ordered(Silences, time="event", disorder=SECOND, idle=SECOND, watermark="key")
    for second in range(0, 5000):
        now = START + second * SECOND
        one.take(arrivals_of([(now, now, second + 1, f"k{second}", True)]))
    live = [key for key in (f"k{second}" for second in range(5000)) if one.state(key) is not None]
    assert len(live) < 20


def test_a_watermark_of_each_needs_to_know_how_long_to_wait() -> None:
    with pytest.raises(DefinitionError, match="watermark='key' needs idle="):
        ordered(Silences, time="event", watermark="key")


@pytest.mark.parametrize("mode", MODES)
def test_the_watermark_never_falls(mode: Watermarks) -> None:
    one = new(mode)
    at = START + 10 * SECOND
    behind = [(at, at, 1, "a", True), (at - 2 * SECOND, at, 2, "a", True), (at - 4 * SECOND, at, 3, "a", True)]
    assert told(one.take(arrivals_of(behind)))[-1] == ("untimely", 3, SECOND)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_late_by_the_lateness_is_corrected_and_not_by_more(mode: Watermarks) -> None:
    one = new(mode, lateness=20 * SECOND)
    mark = START - DISORDER
    bounds = [(mark - 20 * SECOND, START, 2, "a", True), (mark - 20 * SECOND - 1, START, 3, "a", True)]
    assert told(one.take(arrivals_of([(START, START, 1, "a", True), *bounds]))) == [
        ("late", "a", mark - 20 * SECOND, 2),
        ("untimely", 3, 20 * SECOND + 1),
    ]


class Undecided(Silences):
    """Of the silence of one sensor it cannot be said what it is."""

    def _over(self, time: int) -> list[Output]:
        out: list[Output] = []
        for one in super()._over(time):
            assert isinstance(one, Closed)
            if one.key == "b":
                raise ConditionFailed(
                    "bad", name=self.name, step="where", position=0, key="b", outputs=out, done=self.done
                )
            out.append(one)
        return out

    done: int | None = None

    def take(self, batch: Batch) -> list[Output]:
        out: list[Output] = []
        for at in range(len(batch.positions)):
            self.done, before = at, self.last
            keys = None if batch.keys is None else batch.keys[at : at + 1]
            one = Batch(batch.events[at : at + 1], batch.times[at : at + 1], batch.positions[at : at + 1], keys)
            try:
                out += super().take(one)
            except ConditionFailed as failure:
                failure.outputs, self.last = [*out, *failure.outputs], before
                raise
        self.done = None
        return out


@pytest.mark.parametrize("time", ["log", "event"])
def test_a_deadline_that_cannot_be_decided_is_told_and_everything_else_goes_on(time: Any) -> None:
    one = ordered(Undecided, time=time)
    later = START + 60 * SECOND
    stream = [(START, START, 1, "b", True), (START, START, 2, "a", True), (later, later, 3, "a", True)]
    found = one.take(arrivals_of(stream)) + one.tick(later + 60 * SECOND)
    assert told(found) == [
        ("came", "b", START, 1),
        ("came", "a", START, 2),
        ("silent", "a", START + 10 * SECOND, 0),
        ("failed", 0, False),
        ("came", "a", later, 3),
        ("silent", "a", later + 10 * SECOND, 0),
    ]
    one = ordered(Undecided, time=time)
    assert told(one.take(arrivals_of(stream[:1])) + one.tick(later)) == [("came", "b", START, 1), ("failed", 0, False)]
