"""The events of one key of a pattern, read from a log in the pattern's own order: what is asked why something is no match."""

from __future__ import annotations

from ensue.events.registry import Registry
from ensue.events.stored import tag_hash
from ensue.patterns.definition import Definition
from ensue.patterns.detection.reading import Reading
from ensue.patterns.detection.recording import tag_of_findings
from ensue.patterns.detection.sought import Sought
from ensue.patterns.explained.nearest import Stream, order
from ensue.patterns.operator import Taken
from ensue.store.base import Store, Term

__all__ = ["stream_of"]

PAGE = 1000


async def stream_of(
    store: Store,
    registry: Registry,
    sought: Sought,
    key: str,
    *,
    until: int | None,
    after: int = 0,
    through: int | None = None,
) -> Stream:
    """The events of a key in an open log: behind the position `after`, and up to the position `through` or the log's head. `until` is how
    far time has come, in microseconds. Where tenants share the log, the key is `TENANT/KEY`. Errors: those of `Log.read`; what cannot be read is passed over, as the detector does."""
    definition: Definition = sought.definition
    reading = Reading(
        definition.events,
        registry,
        key_tag=definition.key_tag,
        time=definition.time,
        sources=False,
        tenants=sought.tenants,
    )
    value = key.partition("/")[2] if sought.tenants else key
    tags = () if definition.key_tag == "" else (tag_hash(f"{tag_of_findings(definition)}={value}"),)
    taken: list[Taken] = []
    head = store.head() if through is None else through
    while after < head:
        page = await store.read((Term(types=reading.names, tags=tags),), after=after, before=head + 1, limit=PAGE)
        arrivals, _ = reading.arrivals(page.rows, await store.types(), now=None)
        times = arrivals.times if definition.time == "event" else arrivals.recorded
        columns = (times, arrivals.positions, arrivals.events, arrivals.rows or (), arrivals.keys)
        for time, position, event, row, own in zip(*columns, strict=True):
            if own == key:
                taken.append(Taken(time, position, event, row))
        after = max(page.reached, after + 1)
    return Stream(key, tuple(sorted(taken, key=order)), until)
