"""From where a log is to be read so that all is known that is still going on at a position."""

from __future__ import annotations

from typing import Any

from ensue.patterns.detection.reading import Reading
from ensue.patterns.ordering import AHEAD
from ensue.store.base import Selection, Store

__all__ = ["warm_start"]

PAGE = 1000


async def warm_start(store: Store, definition: Any, reading: Reading, selection: Selection, upto: int) -> int:
    """The position behind which reading begins. Of what nothing bounds that is the beginning. A match that rules out others is as old
    as its own time: twice that time is read where matches rule out such as begin later."""
    horizon: int | None = definition.horizon
    if horizon is None or upto <= 0:
        return 0
    skip = getattr(definition, "skip", None)
    span = horizon if skip is None or skip.to in ("next", "none") else 2 * horizon
    span += definition.lateness
    page = await store.read(selection, before=upto + 1, backwards=True, limit=1)
    if not page.rows:
        return upto if page.reached <= 0 else 0
    if definition.time != "event":
        return min(upto, await store.position_at(page.rows[0][5] - span))
    return await _by_own_time(store, reading, selection, upto, span + 2 * definition.disorder + definition.idle + AHEAD)


async def _by_own_time(store: Store, reading: Reading, selection: Selection, upto: int, span: int) -> int:
    """Backwards, until a whole page is older than the newest event by the span."""
    newest: int | None = None
    before = upto + 1
    while before > 1:
        page = await store.read(selection, before=before, backwards=True, limit=PAGE)
        if not page.rows:
            return 0 if page.reached <= 0 else page.reached
        arrivals, _ = reading.arrivals(page.rows, store.known_types(), now=None)
        times = [min(time, recorded) for time, recorded in zip(arrivals.times, arrivals.recorded, strict=True)]
        newest = max((newest or 0, *times))
        before = page.rows[-1][0]
        if times and max(times) < newest - span:
            return before - 1
    return 0
