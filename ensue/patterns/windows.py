"""Windows: the events of one key in a span of time, as aggregates. Declared here; see `Window`."""

from __future__ import annotations

from datetime import datetime, timedelta

from ensue.consumers.handler import Declared
from ensue.errors import DefinitionError, NotYetAvailable
from ensue.patterns.aggregates import Aggregate

__all__ = ["Window"]


class Window(Declared):
    """The events of one key in a span of time, as aggregates. A closed window is handled like an event.

    `size` alone: spans one after another. `size` and `every`: a span begins at every so much. `gap`: a span ends when
    nothing came for so long. `lateness`: how long a closed window still takes events; it is then handled once more.
    Errors: `DefinitionError` unless exactly one of `size` and `gap` is given, and for a class without aggregates.
    """

    __ensue_declared__ = "windows"

    key: str
    start: datetime
    end: datetime

    def __init_subclass__(
        cls,
        *,
        size: timedelta | None = None,
        every: timedelta | None = None,
        gap: timedelta | None = None,
        lateness: timedelta | None = None,
    ) -> None:
        super().__init_subclass__()
        if (size is None) == (gap is None) or (every is not None and size is None):
            raise DefinitionError(f"{cls.__name__}: a window has a size=, with every= if spans overlap, or a gap=")
        if not any(isinstance(value, Aggregate) for value in vars(cls).values()):
            raise DefinitionError(f"{cls.__name__}: a window needs an aggregate: orders = count(OrderPlaced)")
        _check_durations(cls.__name__, size=size, every=every, gap=gap, lateness=lateness)

    def __init__(self) -> None:
        raise _later()


def _check_durations(name: str, **durations: timedelta | None) -> None:
    for word, duration in durations.items():
        if duration is not None and duration <= timedelta():
            raise DefinitionError(f"{name}: {word}={duration}; it is a positive duration, such as minutes(10)")


def _later() -> NotYetAvailable:
    return NotYetAvailable("windows are declared, but this version cannot run them yet")
