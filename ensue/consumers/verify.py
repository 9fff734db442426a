"""Whether a log is whole: every promise that can be recomputed from what is stored, recomputed.

It reads in pages, while writers run, and writes nothing. The order of reading makes that exact: progress first, the events
afterwards, so that everything the progress speaks of is among the events. What is remembered of an event takes about 40
bytes, and a stream about 150.

Not checked: what a handler did, the rows by which further tags are found, and the database's own indexes.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import isqrt
from typing import Any

import msgspec

from ensue.consumers.deliveries import Outcome, unpack
from ensue.consumers.node import PATTERNS
from ensue.consumers.routing import Routing, key_of_position, segment_of
from ensue.consumers.waiting import handled_numbers
from ensue.events.stored import Row, decode_meta, of_tenant, tag_hash, tenant_of, tombstone_of
from ensue.store.base import Consumer, DeadLetter, Delivery, Lane, LaneState, Progress, Standing, Store
from ensue.world import World

__all__ = ["FINDINGS_OF_A_CHECK", "Finding", "Verification", "verify"]

PAGE = 2_000
FINDINGS_OF_A_CHECK = 100
"""More of one kind are counted and not told."""
_DIGEST = (1 << 64) - 1
_BUCKETS = 256
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it must be. `check` names the rule; `position` the event it was seen at, if at one."""

    check: str
    message: str
    position: int | None = None
    consumer: str | None = None


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at and what was found. `omitted` counts findings beyond `FINDINGS_OF_A_CHECK` of one check."""

    log_id: str
    events: int
    consumers: int
    dead_letters: int
    findings: tuple[Finding, ...]
    omitted: int
    unfilled: int = 0
    """Positions that no event has, in a log that does not promise dense ones."""

    @property
    def whole(self) -> bool:
        return not self.findings


async def verify(store: Store, world: World, *, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Check everything. `progress` is called after each page with the position reached and the head.

    Errors: those of the store, when it cannot be read.
    """
    report = _Report()
    settled = (await store.read((), backwards=True, limit=1)).rows
    known_head = settled[0][0] if settled else 0
    accounts = {
        consumer.id: _Account(report, consumer, await store.standing(consumer.id), known_head)
        for consumer in await store.consumers()
    }
    finders = frozenset(number for number, one in accounts.items() if one.consumer.name.startswith(PATTERNS))
    events = _Events(report, dense=store.capabilities.dense, finders=finders)
    reached = 0
    while True:
        page = await store.read((), after=reached, limit=PAGE)
        await _scan(store, report, events, accounts, page.rows)
        reached = max(reached, page.reached)
        if progress is not None:
            progress(reached, store.head())
        await world.sleep(0)
        if reached >= store.head():
            break
    events.end(reached)
    await _name_doubles(store, world, report, events)
    known = {consumer.id for consumer in await store.consumers()}
    for maker, position in events.makers.items():
        if maker not in known:
            report.add("makers", f"was emitted by the consumer number {maker}, which the log does not know", position)
    letters = 0
    for account in accounts.values():
        account.end(reached)
        letters += await _parked(store, report, account.consumer, reached)
    return Verification(
        log_id=store.log_id,
        events=events.count,
        consumers=len(accounts),
        dead_letters=letters,
        findings=tuple(report.findings),
        omitted=report.omitted,
        unfilled=events.unfilled,
    )


class _Report:
    """Findings as they come, bounded."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.omitted = 0
        self._counts: Counter[str] = Counter()

    def add(self, check: str, message: str, position: int | None = None, consumer: str | None = None) -> None:
        self._counts[check] += 1
        if self._counts[check] > FINDINGS_OF_A_CHECK:
            self.omitted += 1
        else:
            self.findings.append(Finding(check=check, message=message, position=position, consumer=consumer))


async def _scan(
    store: Store, report: _Report, events: _Events, accounts: dict[int, _Account], rows: Sequence[Row]
) -> None:
    types = await store.types()
    for row in rows:
        events.see(row)
        number = row[2]
        if number not in events.types:
            events.types.add(number)
            if number not in types:
                report.add("types", f"has the type number {number}, which the log does not know", row[0])
                continue
            for account in accounts.values():
                await account.learn(store)
        for account in accounts.values():
            account.see(row)
        if row[8] is not None and row[6] is not None and row[8] in accounts:
            accounts[row[8]].emitted(row)
    if rows and accounts:
        names = {number: account.consumer.name for number, account in accounts.items()}
        _check_deliveries(report, names, rows, await store.deliveries([row[0] for row in rows]))


# ---------------------------------------------------------------------------------------------------------- events


class _Twice:
    """Finds values that were added twice, in eight bytes a value: the hashes are kept, and whoever asks looks again."""

    def __init__(self) -> None:
        self._buckets = [array("q") for _ in range(_BUCKETS)]

    def add(self, value: int) -> None:
        self._buckets[value % _BUCKETS].append(value)

    def suspects(self) -> set[int]:
        found: set[int] = set()
        for bucket in self._buckets:
            if len(set(bucket)) != len(bucket):
                found.update(value for value, times in Counter(bucket).items() if times > 1)
        return found


class _Events:
    """Each event against those before it."""

    def __init__(self, report: _Report, *, dense: bool, finders: frozenset[int] = frozenset()) -> None:
        self._finders = finders
        """The consumers that look for patterns: what one of them finds at an event is no unit, and has an id by which it is known."""
        self.count = 0
        self.unfilled = 0
        self._dense = dense
        self.types: set[int] = set()
        self.makers: dict[int, int] = {}
        self.ids = _Twice()
        self.units = _Twice()
        self._report = report
        self._next = 1
        self._recorded_at = 0
        self._versions: dict[bytes, int] = {}
        self._roots = array("q", [0])
        self._id_hashes = array("q", [0])
        self._unit: tuple[int, int, int] | None = None

    def see(self, row: Row) -> None:
        position = row[0]
        self.count += 1
        if position != self._next:
            self._missing(position - 1)
        self._next = position + 1
        hashed = hash(row[1])
        self.ids.add(hashed)
        self._id_hashes.append(hashed)
        self._roots.append(row[7] or 0)
        if row[5] < self._recorded_at:
            late = (self._recorded_at - row[5]) / 1e6
            self._report.add("times", f"was recorded {late:.6f} s before the event in front of it", position)
        self._recorded_at = max(self._recorded_at, row[5])
        self._see_stream(row)
        self._see_contents(row)
        if row[6] is not None or row[7] is not None:
            self._see_cause(row)
        self._see_unit(row)

    def end(self, head: int) -> None:
        """The log says that it ends at `head`."""
        if self._next <= head:
            self._missing(head)

    def _missing(self, last: int) -> None:
        first = self._next
        what = f"position {first} is" if first == last else f"positions {first} to {last} are"
        if self._dense:
            self._report.add("positions", f"{what} missing", first)
        else:
            self.unfilled += last - first + 1
        self._roots.extend([0] * (last - first + 1))
        self._id_hashes.extend([0] * (last - first + 1))

    def _see_stream(self, row: Row) -> None:
        stream, version = row[3], row[4]
        if stream is None:
            if version is not None:
                self._report.add("versions", f"has version {version} and no stream", row[0])
            return
        expected = self._versions.get(stream, 0) + 1
        if version != expected:
            self._report.add("versions", f"has version {version} in its stream, where {expected} comes next", row[0])
        self._versions[stream] = version or expected

    def _see_contents(self, row: Row) -> None:
        try:
            meta = decode_meta(row[10])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._report.add("contents", f"has metadata that cannot be read: {error}", row[0])
            return
        tenant = tenant_of(meta)
        stream = tag_hash(meta.key) if meta.key is not None else None
        if (of_tenant(stream, tenant) if stream is not None and tenant is not None else stream) != row[3]:
            self._report.add("contents", f"is in another stream than that of its key {meta.key}", row[0])
        # What came by a channel and was kept until it could be read names as its cause what its sender did.
        cause = row[6] if meta.origin is None else None
        if cause is not None and 0 < cause < row[0] and self._id_hashes[cause] not in (0, hash(meta.causation)):
            self._report.add("causes", f"names another event id as its cause than that at position {cause}", row[0])
        try:
            if tombstone_of(row[11]) is None:  # what is in an archive is checked there, by its digest
                _check_json(row[11])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._report.add("contents", f"has a payload that is not JSON: {error}", row[0])

    def _see_cause(self, row: Row) -> None:
        position, cause, root = row[0], row[6], row[7]
        if cause is None or root is None:
            self._report.add("causes", f"has cause {cause} and root {root}; an event has both or neither", position)
        elif not 0 < cause < position:
            self._report.add("causes", f"is caused by position {cause}, which is not before it", position)
        elif root != (self._roots[cause] or cause):
            expected = self._roots[cause] or cause
            self._report.add("causes", f"has the root {root}, and its cause at {cause} leads to {expected}", position)

    def _see_unit(self, row: Row) -> None:
        """Events of one delivery stand together, numbered from 0."""
        position, cause, maker, nth = row[0], row[6], row[8], row[9]
        if maker is None:
            self._unit = None
            return
        self.makers.setdefault(maker, position)
        if maker in self._finders:
            self._unit = None
            return
        if cause is None or nth is None:
            self._report.add("units", f"was emitted by a consumer, with cause {cause} and number {nth}", position)
            self._unit = None
            return
        expected = self._unit[2] + 1 if self._unit is not None and self._unit[:2] == (maker, cause) else 0
        if nth == 0:
            self.units.add(hash((maker, cause)))
        if nth != expected and not (nth == 0 and expected):
            self._report.add(
                "units", f"has number {nth} of what was made of {cause}, where {expected} comes next", position
            )
        self._unit = (maker, cause, nth)


async def _name_doubles(store: Store, world: World, report: _Report, events: _Events) -> None:
    """Read again for those whose hashes came twice. Without any, which is usual, nothing is read."""
    ids, units = events.ids.suspects(), events.units.suspects()
    first: dict[object, int] = {}
    reached = 0
    while (ids or units) and reached < store.head():
        page = await store.read((), after=reached, limit=PAGE)
        for row in page.rows:
            if hash(row[1]) in ids and first.setdefault(row[1], row[0]) != row[0]:
                report.add("ids", f"has the id of the event at position {first[row[1]]}", row[0])
            unit = (row[8], row[6])
            if row[9] == 0 and hash(unit) in units and first.setdefault(unit, row[0]) != row[0]:
                made = f"is made of {row[6]} by the consumer number {row[8]}"
                report.add("units", f"{made}, and so was the event at position {first[unit]}", row[0])
        reached = max(reached, page.reached)
        await world.sleep(0)


# -------------------------------------------------------------------------------------------------------- consumers


class _Account:
    """One consumer: what its rows say it has done, recomputed from the events."""

    def __init__(self, report: _Report, consumer: Consumer, standing: Standing, known_head: int) -> None:
        self.consumer = consumer
        self._report = report
        self._known_head = known_head
        self._routing = Routing(consumer.key_tag)
        self._since: dict[int, int] = {}
        self._lanes = {lane.key: lane for lane in standing.lanes}
        self._progress = {row.segment: row for row in standing.progress}
        self._ahead = {row.segment: frozenset(row.ahead) for row in standing.progress}
        self._count: defaultdict[int, int] = defaultdict(int)
        self._digest: defaultdict[int, int] = defaultdict(int)
        self._undone: set[int] = set()

    async def learn(self, store: Store) -> None:
        """Which types the consumer handles, of those the log knows by now."""
        self._since = await handled_numbers(store, self.consumer)

    def see(self, row: Row) -> None:
        since = self._since.get(row[2])
        position = row[0]
        if since is None or position <= since:
            return
        try:
            key = self._routing.key(row)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return  # reported with the event itself
        segment = segment_of(key, self.consumer.segments)
        lane = self._lanes.get(key)
        progress = self._progress.get(segment)
        if lane is not None:
            done = position <= lane.after
        else:
            done = progress is not None and (position <= progress.position or position in self._ahead[segment])
        if done:
            self._count[segment] += 1
            self._digest[segment] += position * position
        else:
            self._undone.add(position)

    def emitted(self, row: Row) -> None:
        """An event this consumer made: its cause must be done, if the event was there when the progress was read."""
        cause = row[6]
        if cause in self._undone and row[0] <= self._known_head:
            self._find("effects", f"was made of the event at {cause}, which does not count as done", row[0])

    def end(self, head: int) -> None:
        expected = set(range(self.consumer.segments))
        if set(self._progress) != expected:
            wrong = sorted(expected ^ set(self._progress))
            self._find("checkpoints", f"the progress rows of segments {wrong} are missing or too many")
        for progress in self._progress.values():
            self._check_progress(progress, head)
        for lane in self._lanes.values():
            self._check_lane(lane, head)

    def _check_progress(self, row: Progress, head: int) -> None:
        where = f"segment {row.segment}"
        if row.position > head:
            self._find("checkpoints", f"{where} is done up to {row.position}, and the log ends at {head}", row.position)
        if list(row.ahead) != sorted(set(row.ahead)) or any(not row.position < one <= head for one in row.ahead):
            said = f"{where} is done up to {row.position} and, ahead of that, {row.ahead[:5]}"
            self._find("checkpoints", f"{said}, which is not ascending between there and the head {head}", row.position)
        count, digest = self._count[row.segment], self._digest[row.segment] & _DIGEST
        if (count, digest) != (row.count, row.digest):
            self._unbalanced(row, count, digest)

    def _unbalanced(self, row: Progress, count: int, digest: int) -> None:
        """The digest is a sum of squares, so that one event too many or too few can be named."""
        skipped, lost = _root((digest - row.digest) & _DIGEST), _root((row.digest - digest) & _DIGEST)
        said = f"segment {row.segment} has handled {row.count} events, and {count} count as done"
        if count == row.count + 1 and skipped:
            self._find("accounts", f"{said}: the event counts as done and was not handled", skipped)
        elif count == row.count - 1 and lost:
            self._find("accounts", f"{said}: the event was handled twice, is gone, or does not count as done", lost)
        elif count == row.count:
            self._find("accounts", f"{said}, but not the same ones", row.position)
        else:
            self._find("accounts", said, row.position)

    def _check_lane(self, lane: Lane, head: int) -> None:
        if lane.segment != segment_of(lane.key, self.consumer.segments):
            right = segment_of(lane.key, self.consumer.segments)
            self._find("lanes", f"the key {lane.key_text} stands in segment {lane.segment}, not in {right}", lane.after)
        if lane.key != _key_of(lane.key_text):
            self._find("lanes", f"the key {lane.key_text} does not have the hash {lane.key.hex()}", lane.after)
        if lane.after > head:
            self._find(
                "lanes", f"the key {lane.key_text} is done up to {lane.after}, the log ends at {head}", lane.after
            )
        if lane.state not in (LaneState.LATE, LaneState.RETRY, LaneState.PARKED):
            self._find("lanes", f"the key {lane.key_text} is in the state {lane.state!r}, which is none", lane.after)

    def _find(self, check: str, message: str, position: int | None = None) -> None:
        self._report.add(check, message, position, self.consumer.name)


def _root(square: int) -> int | None:
    """The position whose square this is, if it is one."""
    root = isqrt(square)
    return root if root and root * root == square else None


def _key_of(text: str) -> bytes:
    own = text[1:]
    if text.startswith("#") and own.isdecimal():
        return key_of_position(int(own))
    tenant, slash, rest = text.partition("/")
    return of_tenant(tag_hash(rest), tenant) if slash and "=" not in tenant else tag_hash(text)


async def _parked(store: Store, report: _Report, consumer: Consumer, head: int) -> int:
    """Every parked key has its open dead letter, every open dead letter its parked key. Returns how many are open.

    Somebody may park or release between the two readings; nobody can do so with the same row twice.
    """
    first, _ = await _mismatches(store, consumer)
    second, letters = await _mismatches(store, consumer)
    for sign, finding in second.items():
        if sign in first:
            report.add("dead letters", finding.message, finding.position, consumer.name)
    for letter in letters:
        if not 0 < letter.position <= head:
            message = f"dead letter {letter.id} is about position {letter.position}, the log ends at {head}"
            report.add("dead letters", message, letter.position, consumer.name)
    return len(letters)


async def _mismatches(
    store: Store, consumer: Consumer
) -> tuple[dict[tuple[object, ...], Finding], Sequence[DeadLetter]]:
    standing = await store.standing(consumer.id)
    letters = await store.dead_letters(consumer=consumer.id)
    lanes = {lane.key: lane for lane in standing.lanes if lane.state == LaneState.PARKED}
    by_key = {letter.key: letter for letter in letters}
    found: dict[tuple[object, ...], Finding] = {}
    for lane in lanes.values():
        letter = by_key.get(lane.key)
        if letter is None or letter.position <= lane.after:
            message = f"the key {lane.key_text} is parked, and no open dead letter says why"
            found[lane.key, lane.rev] = Finding(check="", message=message, position=lane.after + 1)
    for letter in letters:
        if letter.key not in lanes:
            message = f"dead letter {letter.id} is open, and its key {letter.key_text} is not parked"
            found[(letter.id,)] = Finding(check="", message=message, position=letter.position)
    return found, letters


def _check_deliveries(report: _Report, names: dict[int, str], rows: Sequence[Row], records: Iterable[Delivery]) -> None:
    """The records of who handled what: each readable, and no event of these rows handled twice by one consumer."""
    low, high = rows[0][0], rows[-1][0]
    times: Counter[tuple[int, int]] = Counter()
    ended = (Outcome.HANDLED.value, Outcome.DISCARDED.value)
    for record in records:
        name = names.get(record.consumer)
        try:
            delivered: Sequence[Any] = unpack(record.packed)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            if low <= record.first <= high:
                report.add("deliveries", f"a delivery record cannot be read: {error}", record.first, name)
            continue
        positions = [one.position for one in delivered]
        span = (min(positions, default=0), max(positions, default=0))
        if span != (record.first, record.last) and low <= record.first <= high:
            said = f"a delivery record of {record.first} to {record.last} holds {span[0]} to {span[1]}"
            report.add("deliveries", said, record.first, name)
        times.update(
            (record.consumer, one.position) for one in delivered if low <= one.position <= high and one.outcome in ended
        )
    for (consumer, position), count in sorted(times.items()):
        if count > 1:
            report.add("deliveries", f"was handled {count} times", position, names.get(consumer))
