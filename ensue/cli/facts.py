"""A stored event as the command line shows it, and the ways in which people name one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from ensue.cli.failures import Negative, WrongUsage
from ensue.cli.output import Progress, clean, exact_time
from ensue.cli.target import OpenLog
from ensue.errors import EnsueError, UnreadableEvent
from ensue.events.personal import hidden, unsealed
from ensue.events.recorded import archived_error, microseconds
from ensue.events.stored import Row, decode_meta
from ensue.world import World

__all__ = ["EventFacts", "EventReader", "correlated", "correlation_of", "id_range", "instant_of", "positions_with_id"]

PAGE = 1000
AMBIGUOUS = 6
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_raw = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder(decimal_format="string").encode


class EventFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One event, in the shape that `--json` prints. Ids are UUIDs, times ISO 8601 in UTC, `cause` and `root` positions."""

    position: int
    id: str
    type: str
    version: int
    key: str | None
    tags: tuple[str, ...]
    stream_version: int | None
    recorded_at: str | None
    time: str | None
    correlation: str | None
    causation: str | None
    cause: int | None
    root: int | None
    maker: str | None
    """The consumer that emitted it."""
    headers: Mapping[str, str]
    event: msgspec.Raw | None
    """The fields: as the application reads them where it is known, else as they are stored."""
    unreadable: str | None = None
    """Why there are none, or why they are shown as they are stored though the application is known."""

    @property
    def payload(self) -> str:
        return bytes(self.event).decode(errors="replace") if self.event is not None else f"<{self.unreadable}>"


class EventReader:
    """Rows to facts. `refresh` before each page: types and consumers of a log grow."""

    def __init__(self, log: OpenLog) -> None:
        self._log = log
        self._types: Mapping[int, tuple[str, int]] = {}
        self._makers: dict[int, str] = {}
        self._decoders: dict[int, Callable[[bytes], bytes]] = {}

    async def refresh(self) -> None:
        types = await self._log.store.types()
        if len(types) != len(self._types) or not self._makers:
            self._makers = {consumer.id: consumer.name for consumer in await self._log.store.consumers()}
        self._types = types

    def line(self, row: Row) -> tuple[str, str, str, str]:
        """Type, key, cause and payload as texts: as much as fits a line, and five times as fast as all there is."""
        event, unreadable = self._fields(row)
        try:
            key = decode_meta(row[10]).key or ""
        except (msgspec.MsgspecError, UnicodeDecodeError):
            key = "?"
        name = self._types.get(row[2], (f"#{row[2]}", 0))[0]
        payload = bytes(event).decode(errors="replace") if event is not None else f"<{unreadable}>"
        return clean(name), clean(key), "" if row[6] is None else str(row[6]), clean(payload)

    def facts(self, row: Row) -> EventFacts:
        name, version = self._types.get(row[2], (f"#{row[2]}", 0))
        event, unreadable = self._fields(row)
        try:
            meta = decode_meta(row[10])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            meta, unreadable = None, f"its metadata cannot be read: {error}"
        return EventFacts(
            position=row[0],
            id=_uuid(row[1]) or "",
            type=name,
            version=version,
            key=meta.key if meta is not None else None,
            tags=meta.tags if meta is not None else (),
            stream_version=row[4],
            recorded_at=exact_time(row[5]),
            time=exact_time(meta.time) if meta is not None else None,
            correlation=_uuid(meta.correlation) if meta is not None else None,
            causation=_uuid(meta.causation) if meta is not None else None,
            cause=row[6],
            root=row[7],
            maker=self._makers.get(row[8], f"#{row[8]}") if row[8] is not None else None,
            headers=(meta.headers or {}) if meta is not None else {},
            event=event,
            unreadable=unreadable,
        )

    def _fields(self, row: Row) -> tuple[msgspec.Raw | None, str | None]:
        name, version = self._types.get(row[2], ("", 0))
        gone = archived_error(row, name or "event")
        if gone is not None:
            return None, str(gone)
        data, hidden = row[11], None
        try:
            data, hidden = self._opened(name, data)
            stored = _raw(data)
            if b"\n" in data:
                stored = msgspec.Raw(_encode(msgspec.json.decode(data)))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return None, f"its payload cannot be read: {error}"
        registry = self._log.registry
        if registry is None or hidden is not None or not registry.knows(name):
            return stored, hidden
        try:
            return msgspec.Raw(_encode(registry.decoder(name, version)(row[11]))), None
        except UnreadableEvent as error:
            return stored, str(error)
        except Exception as error:  # an upcaster is the user's code
            return stored, f"the application cannot read it: {type(error).__name__}: {error}"

    def edited(self, row: Row, data: bytes) -> bytes:
        """Another payload of an event, as it is shown."""
        return self._opened(self._types.get(row[2], ("", 0))[0], data)[0]

    def _opened(self, name: str, data: bytes) -> tuple[bytes, str | None]:
        """With personal fields as values, or without them, and why."""
        try:
            return unsealed(name, data, self._log.keys), None
        except EnsueError as error:
            return hidden(data), str(error)


def _uuid(id: bytes | None) -> str | None:
    if id is None:
        return None
    return str(UUID(bytes=id)) if len(id) == 16 else id.hex()


# ------------------------------------------------------------------------------------------------- naming an event


def correlation_of(row: Row) -> bytes | None:
    """None where the metadata cannot be read."""
    try:
        return decode_meta(row[10]).correlation
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def id_range(text: str) -> tuple[bytes, bytes] | None:
    """The lowest and highest id that begin with these hex digits (dashes do not count); None if they are no id."""
    digits = text.replace("-", "").lower()
    if not 4 <= len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
        return None
    return bytes.fromhex(digits.ljust(32, "0")), bytes.fromhex(digits.ljust(32, "f"))


async def positions_with_id(log: OpenLog, text: str) -> list[int]:
    """The position of the event whose id begins so, or nothing. Errors: `Negative` when it fits several."""
    span = id_range(text)
    found = await log.store.positions_of(*span, limit=AMBIGUOUS) if span is not None else []
    if len(found) > 1 and span is not None and span[0] != span[1]:
        listed = ", ".join(map(str, sorted(found)[: AMBIGUOUS - 1])) + (", …" if len(found) == AMBIGUOUS else "")
        raise Negative(f"the ids of several events begin with {text} (positions {listed}); give more of its digits")
    return found


async def correlated(log: OpenLog, text: str) -> tuple[bytes, int]:
    """A correlation id, and a position before the first event that carries it.

    It is the id of the event that began it, so it is found at once where that is in this log; a correlation that came
    from elsewhere is searched from the beginning. Errors: `WrongUsage` for what is no id, `Negative` for none of it.
    """
    found = await positions_with_id(log, text)
    span = id_range(text)
    if span is None:
        raise WrongUsage(f"{text!r} is no correlation id; it is a UUID, or the first digits of one")
    if found:
        page = await log.store.read((), after=found[0] - 1, before=found[0] + 1, limit=1)
        correlation = correlation_of(page.rows[0])
        if correlation is None:
            raise Negative(f"the metadata of the event at position {found[0]} cannot be read; see `ensue verify`")
        began = await log.store.positions_of(correlation, correlation, limit=1)
        return correlation, began[0] - 1 if began else 0
    if span[0] == span[1]:
        progress, reached = Progress("searching"), 0
        try:
            while True:
                page = await log.store.read((), after=reached, limit=PAGE)
                for row in page.rows:
                    if correlation_of(row) == span[0]:
                        return span[0], row[0] - 1
                reached = max(reached, page.reached)
                progress(reached, log.store.head())
                if reached >= log.store.head():
                    break
        finally:
            progress.end()
    raise Negative(f"no event of {log.url} has the id or the correlation {text}")


def instant_of(text: str, world: World) -> int | None:
    """A time in microseconds: `10m` ago (s, m, h, d), `14:30` today, `2026-05-01`, `2026-05-01T14:30`; None for no time.

    Without an offset it is local time.
    """
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return world.now() - timedelta(**{_UNITS[ago[2]]: float(ago[1])}) // timedelta(microseconds=1)
    today = datetime.fromtimestamp(world.now() / 1_000_000, UTC).astimezone().date().isoformat()
    for candidate in (text, f"{today}T{text}"):
        try:
            return microseconds(datetime.fromisoformat(candidate))
        except ValueError:
            continue
    return None
