"""Windows: the events of one key in a span of time, as values. What is declared, checked; `window_engine` computes it.

class PerMinute(Window, size=minutes(1)):
    readings = count(Reading)
    high = largest(Reading, lambda reading: reading.celsius)

@app.on
def minute(window: PerMinute) -> MinutePassed: ...
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any, ClassVar, Literal, Self
from zoneinfo import ZoneInfo

import msgspec

from ensue.consumers.handler import Declared
from ensue.errors import DefinitionError
from ensue.events.fingerprint import fingerprint_of
from ensue.events.message import Event, declaration
from ensue.events.recorded import instant
from ensue.patterns.aggregates import Aggregate
from ensue.patterns.declaring import checked_duration, common_key
from ensue.patterns.definition import TimeOf
from ensue.patterns.expressions import Candidate, Field
from ensue.patterns.operator import Closed
from ensue.patterns.tracing import trace

__all__ = ["Timing", "Window", "WindowDefinition", "timing_of"]

_MICROSECOND = timedelta(microseconds=1)
_DAY = 24 * 3600 * 1_000_000
_ALWAYS = 1 << 62
_TAKEN = ("id", "key", "start", "end", "final", "replaces", "_closed")


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """In which order events are looked at, in microseconds. See `ensue.patterns.ordering`."""

    time: TimeOf
    disorder: int
    idle: int
    watermark: Literal["all", "source", "key"]


class WindowDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A window class as data. Durations are microseconds."""

    window: type
    name: str
    kind: Literal["aligned", "session", "sliding", "last"]
    values: tuple[tuple[str, Aggregate[Any]], ...]
    events: tuple[type[Event], ...]
    key_tag: str | None
    size: int = 0
    """Of a session its gap; of `last` the number of events."""
    every: int = 0
    offset: int = 0
    timezone: str | None = None
    gap: int | None = None
    """Of `last`: after so long a silence it begins anew."""
    early: int | None = None
    corrects: int = 0
    """So long after its end a window still takes events."""
    time: TimeOf = "log"
    disorder: int = 0
    idle: int = 0
    watermark: Literal["all", "source", "key"] = "all"
    fingerprint: bytes = b""

    @property
    def lateness(self) -> int:
        """How late an event may be to be given to the operator: it is taken while its window is open or takes corrections."""
        if self.time != "event" or self.kind in ("sliding", "last"):
            return 0
        if self.kind == "session":  # it may go on for any time, and then takes what came near its beginning
            return _ALWAYS
        return self.corrects + self.size + (_DAY if self.timezone else 0)

    @property
    def horizon(self) -> int | None:
        """From how far back its state is made; None where nothing bounds that."""
        if self.kind == "last":
            return None
        return None if self.kind == "session" else self.size + self.corrects + (_DAY if self.timezone else 0)


class Window(Declared):
    """The events of one key in a span of time, as values. A closed window is handled like an event.

    Which span: `size` alone, one after another, beginning at 1970 in UTC plus `offset`; a `size` of whole days with
    `timezone="Europe/Berlin"`, from midnight to midnight there, of 23 or 25 hours when clocks change. `size` and `every`: one begins
    at every so much. `gap`: one ends when nothing came for so long. `sliding`: for each event, what came in the last so much, with it.
    `last=100`: each 100 events, or with `every=10` the last 100 at each tenth; with `gap`, a key that was silent for so long begins
    anew, else say `unbounded=True`.

    A span has its start and not its end. Only spans with an event are given, when time has come to their end, in order of end,
    start and key. `early=seconds(10)`: also before, each so much after the start if something is new, with `final` False.
    An event that is late is taken while its window is open. `lateness`: and so long after it was closed; it is then given once more,
    and `replaces` names the answers that are not true any more. What comes later is `Late`.

    `key`, `time`, `disorder`, `idle`, `watermark` and `name` are as those of a `Pattern`; with `lateness`, time is that of events.
    Errors: `DefinitionError` for what cannot be, and for a class without values.
    """

    __test__ = False  # so that pytest collects none that is called Test…
    __ensue_declared__ = "windows"
    __ensue_window__: ClassVar[WindowDefinition]

    _closed: Closed

    def __init_subclass__(
        cls,
        *,
        size: timedelta | None = None,
        every: timedelta | int | None = None,
        gap: timedelta | None = None,
        sliding: timedelta | None = None,
        last: int | None = None,
        offset: timedelta | None = None,
        timezone: str | None = None,
        early: timedelta | None = None,
        lateness: timedelta | None = None,
        key: str | None = None,
        time: TimeOf | None = None,
        disorder: timedelta | None = None,
        idle: timedelta | None = None,
        watermark: Literal["all", "source", "key"] = "all",
        unbounded: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init_subclass__()
        where = cls.__name__
        kind = _kind(where, size=size, gap=gap, sliding=sliding, last=last)
        span, step = _span(where, kind, size=size, every=every, gap=gap, sliding=sliding, last=last)
        shift = _offset(where, kind, offset)
        _check_timezone(where, kind, span, step, timezone, shift)
        values = _values(cls)
        events = tuple(dict.fromkeys(one.event for _, one in values))
        corrects = checked_duration(where, "lateness", lateness) or 0
        soon = checked_duration(where, "early", early)
        if kind in ("sliding", "last") and (corrects or soon):
            raise DefinitionError(
                f"{where}: it is given at an event and stands; early= and lateness= are for spans that close"
            )
        if soon is not None and step != span:
            raise DefinitionError(
                f"{where}: early= is for spans that do not overlap; a smaller every= gives answers more often"
            )
        if soon is not None and soon >= span:
            raise DefinitionError(f"{where}: early={early} is not before the end of what is {size or gap} long")
        if kind == "last" and gap is None and not unbounded:
            raise DefinitionError(
                f"{where}: each key keeps up to {span} events for ever, so that its state grows with its keys: say gap=, after how long a "
                "silence a key begins anew, or unbounded=True"
            )
        timing = timing_of(where, time=time, disorder=disorder, idle=idle, watermark=watermark, late=bool(corrects))
        definition = WindowDefinition(
            window=cls,
            name=name or where,
            kind=kind,
            values=values,
            events=events,
            key_tag=common_key(where, events, key),
            size=span,
            every=step,
            offset=shift,
            timezone=timezone,
            gap=checked_duration(where, "gap", gap) if kind == "last" else None,
            early=soon,
            corrects=corrects,
            time=timing.time,
            disorder=timing.disorder,
            idle=timing.idle,
            watermark=timing.watermark,
        )
        cls.__ensue_window__ = msgspec.structs.replace(definition, fingerprint=_fingerprint(definition))

    @classmethod
    def __ensue_closed__(cls, closed: Closed) -> Self:
        """The window as a handler is given it."""
        made = cls.__new__(cls)
        made._closed = closed
        for name, value in closed.values.items():
            setattr(made, name, value)
        return made

    @property
    def id(self) -> str:
        """The same whenever this answer is computed again: made of the window's name, key and start, and which answer of it this is."""
        return _uuid(self._closed.id)

    @property
    def key(self) -> str:
        """The text of the key."""
        return self._closed.key

    @property
    def start(self) -> datetime:
        """The first moment that belongs to it. Of a sliding window: the last that does not."""
        return _instant(self._closed.start)

    @property
    def end(self) -> datetime:
        """The first moment that does not belong to it; of a session `gap` after its last event. Of a sliding window and of the last
        events: the time of the last one."""
        return _instant(self._closed.end)

    @property
    def final(self) -> bool:
        """Whether it is closed. A late event may still correct it, where `lateness` is given."""
        return self._closed.final

    @property
    def replaces(self) -> tuple[str, ...]:
        """The ids of answers that this one corrects: of the same window, or of sessions that have become one."""
        return tuple(map(_uuid, self._closed.replaces))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(self._closed.id)

    def __repr__(self) -> str:
        said = {"key": self.key, "start": self.start, "end": self.end, "final": self.final, **self._closed.values}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in said.items())})"


def _uuid(id: bytes) -> str:
    """As `UUID` writes it, and ten times as fast."""
    text = id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_instant = lru_cache(maxsize=1024)(instant)


def timing_of(
    where: str,
    *,
    time: TimeOf | None,
    disorder: timedelta | None,
    idle: timedelta | None,
    watermark: Literal["all", "source", "key"],
    late: bool = False,
) -> Timing:
    """Errors: `DefinitionError`."""
    found = time or ("event" if disorder is not None or late else "log")
    if found not in ("log", "event", "processing"):
        raise DefinitionError(f"{where}: time={time!r}; it is one of 'log', 'event', 'processing'")
    if watermark not in ("all", "source", "key"):
        raise DefinitionError(f"{where}: watermark={watermark!r}; it is one of 'all', 'source', 'key'")
    if found != "event" and (disorder is not None or idle is not None or watermark != "all" or late):
        raise DefinitionError(
            f"{where}: in the order of the log nothing is late: disorder=, idle=, watermark= and lateness= are for time='event'"
        )
    if watermark != "all" and idle is None:
        raise DefinitionError(
            f"{where}: watermark={watermark!r} needs idle=, how long one is waited for: idle=minutes(10)"
        )
    return Timing(
        time=found,
        disorder=checked_duration(where, "disorder", disorder) or 0,
        idle=checked_duration(where, "idle", idle) or 0,
        watermark=watermark,
    )


def _kind(where: str, **given: object) -> Literal["aligned", "session", "sliding", "last"]:
    last = given["last"] is not None
    chosen = [word for word, value in given.items() if value is not None and not (last and word == "gap")]
    if len(chosen) != 1:
        raise DefinitionError(
            f"{where}: a window is of one kind: size= (with every= if spans overlap), gap=, sliding= or last=; this has "
            f"{' and '.join(f'{word}=' for word in chosen) or 'none'}"
        )
    kinds: dict[str, Literal["aligned", "session", "sliding", "last"]] = {
        "size": "aligned",
        "gap": "session",
        "sliding": "sliding",
        "last": "last",
    }
    return kinds[chosen[0]]


def _span(
    where: str, kind: str, *, every: timedelta | int | None, last: int | None, **spans: object
) -> tuple[int, int]:
    if kind == "last":
        step = last if every is None else every
        if type(last) is not int or last < 1 or type(step) is not int or not 1 <= step <= last:
            raise DefinitionError(
                f"{where}: last={last!r}, every={every!r}; a number of events, and at each how many of them, up to last"
            )
        return last, step
    word = {"aligned": "size", "session": "gap"}.get(kind, kind)
    span = checked_duration(where, word, spans[word])
    assert span is not None
    if every is None:
        return span, span
    if kind != "aligned":
        raise DefinitionError(f"{where}: every= is for size= and last=")
    step = checked_duration(where, "every", every)
    assert step is not None
    if step > span:
        raise DefinitionError(
            f"{where}: every={every} is longer than size={spans['size']}: what comes between would be in no window"
        )
    return span, step


def _offset(where: str, kind: str, offset: timedelta | None) -> int:
    given: object = offset
    if offset is None:
        return 0
    if kind != "aligned" or not isinstance(given, timedelta):
        raise DefinitionError(
            f"{where}: offset={offset!r}; a duration by which spans of size= begin later, such as hours(6)"
        )
    return offset // _MICROSECOND


def _check_timezone(where: str, kind: str, span: int, step: int, timezone: str | None, offset: int) -> None:
    if timezone is None:
        return
    if kind != "aligned" or span % _DAY or step != span or offset:
        raise DefinitionError(
            f"{where}: timezone= is for a size= of whole days, without every= and offset=: hours are the same in all timezones"
        )
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        raise DefinitionError(
            f"{where}: timezone={timezone!r} is none that is known; one looks like 'Europe/Berlin'"
        ) from None


def _values(cls: type) -> tuple[tuple[str, Aggregate[Any]], ...]:
    values = tuple((name, value) for name, value in vars(cls).items() if isinstance(value, Aggregate))
    if not values:
        raise DefinitionError(f"{cls.__name__}: a window needs an aggregate: orders = count(OrderPlaced)")
    for name, value in values:
        if name in _TAKEN:
            raise DefinitionError(f"{cls.__name__}: a value cannot be called {name!r}: a window has that itself")
        event: Any = value.event
        if not (isinstance(event, type) and issubclass(event, Event)):
            raise DefinitionError(f"{cls.__name__}.{name}: {event!r} is not a type of event")
        functions: tuple[object, ...] = (value.value, value.where)
        if any(one is not None and not callable(one) for one in functions) or (
            value.value is None and value.kind != "count"
        ):
            raise DefinitionError(
                f"{cls.__name__}.{name}: {value.kind} is of a function of the event: lambda p: p.amount"
            )
        what = f"{cls.__name__}.{name}"  # a field that is not there is named now
        if value.where is not None:
            trace(value.where, (value.event,), what=what)
        if value.value is not None:
            found = trace(value.value, (value.event,), truth=False, what=what)
            if isinstance(found, Field) and found.of == Candidate():
                value.quick = operator.attrgetter(found.name)
    return values


def _fingerprint(definition: WindowDefinition) -> bytes:
    functions: list[Callable[..., Any]] = []
    for _, value in definition.values:
        functions += [one for one in (value.value, value.where) if one is not None]
    shown = [(name, one.kind, declaration(one.event).name) for name, one in definition.values]
    plain = msgspec.structs.replace(definition, window=object, values=(), events=())
    said = f"{shown}{plain}".encode() + fingerprint_of((), functions, definition.events)
    return blake2b(said, digest_size=16).digest()
