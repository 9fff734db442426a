"""An open application: its store, its codec, and its consumers when they run here. `App` is the door to it."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from ensue.app.dependencies import Dependencies
from ensue.app.receipt import Receipt
from ensue.consumers.handler import HandlerDefinition
from ensue.consumers.handling import Handling, inside_handler
from ensue.consumers.node import Node, define_consumers
from ensue.consumers.policy import Retry
from ensue.consumers.transaction import Transaction
from ensue.consumers.waiting import Bell, wait_until_done, wait_until_settled
from ensue.errors import ApplyFailed, InsideHandler, MissingCapability, NotCaughtUp, WiringError
from ensue.events.message import Event
from ensue.events.recorded import Criteria, Position, Recorded, microseconds
from ensue.events.registry import Registry, fingerprint, redraft
from ensue.events.stored import Draft, Row, tag_hash
from ensue.observe.signals import Observer
from ensue.store.base import Condition, Consumer, Expected, Request, Selection, SqlTransaction, Store, Term, Written
from ensue.world import World

__all__ = ["Engine"]

T = TypeVar("T")
RESULT_BYTES = 64 * 1024


class Engine:
    """See the module. Opened once; closed once."""

    def __init__(
        self,
        store: Store,
        world: World,
        registry: Registry,
        definitions: Sequence[HandlerDefinition],
        dependencies: Dependencies,
        *,
        retry: Retry,
        observe: Observer,
        drain_seconds: float,
    ) -> None:
        self.store = store
        self.world = world
        self.registry = registry
        self.node: Node | None = None
        self._definitions = definitions
        self._dependencies = dependencies
        self._observe = observe
        self._drain_seconds = drain_seconds
        self._bell = Bell()
        self._handlings = [Handling(one, registry, world, dependencies, retry=retry) for one in definitions]

    # ------------------------------------------------------------------------------------------------------ opening

    async def open(self, *, consume: bool) -> None:
        """Open the store, make every consumer known to it and, with `consume`, run them here."""
        self._check()
        await self.store.open(self.world)
        try:
            consumers = await define_consumers(self.store, self._handlings)
            if consume:
                await self._consume(consumers)
        except BaseException:
            await self._dependencies.close()
            await self.store.close()
            raise

    async def _consume(self, consumers: Sequence[Consumer]) -> None:
        await self._dependencies.open()
        self.node = Node(self.store, self.world, self._observe, self._bell, host=socket.gethostname(), pid=os.getpid())
        await self.node.start(consumers, self._handlings)

    async def close(self) -> None:
        """Drain, release, close. Idempotent."""
        if self.node is not None:
            await self.node.stop(limit_seconds=self._drain_seconds)
            self.node = None
        await self._dependencies.close()
        await self.store.close()

    def _check(self) -> None:
        problems = self._dependencies.check(self._definitions)
        if problems:
            raise WiringError("\n".join(problems))
        inside = [definition.name for definition in self._definitions if definition.inside]
        if inside and not self.store.capabilities.sql:
            raise MissingCapability(
                f"{', '.join(inside)} take a Transaction, and this store ({type(self.store).__name__}) has no SQL: use a "
                "sqlite: URL, or handlers that return events"
            )

    # ------------------------------------------------------------------------------------------------------ writing

    def drafts(self, events: Iterable[Event | Recorded[Any]], **meta: Any) -> list[Draft]:
        """Encode. All events of one write without a correlation share the first one's. Errors: `InvalidEvent`."""
        self._outside("append events")
        drafts: list[Draft] = []
        now = self.world.now()
        for event in events:
            if isinstance(event, Recorded):
                drafts.append(redraft(event))
                continue
            id = self.world.new_id()
            meta["correlation"] = meta.get("correlation") or (drafts[0].id if drafts else id)
            drafts.append(self.registry.draft(event, id=id, time=now, **meta))
        return drafts

    async def append(
        self,
        drafts: Sequence[Draft],
        expected: tuple[Expected, ...] = (),
        conditions: tuple[Condition, ...] = (),
        idempotency_key: str | None = None,
    ) -> Receipt[None]:
        """Store, wait until durable."""
        key = print_ = b""
        if idempotency_key is not None:
            key, print_ = tag_hash(f"idempotency={idempotency_key}"), fingerprint(drafts)
        request = Request(
            events=drafts,
            expected=expected,
            conditions=conditions,
            idempotency_key=key or None,
            fingerprint=print_,
        )
        await self.store.room()
        written = await self.store.write(request)
        return self._receipt(written, None)

    async def transact(
        self, function: Callable[[Transaction], T], idempotency_key: str | None
    ) -> tuple[T, Receipt[None]]:
        """Run a function inside the writer's transaction."""
        self._outside("open a transaction")
        results: list[T] = []

        def apply(sql: SqlTransaction) -> Sequence[Draft]:
            transaction = Transaction(sql)
            results[:] = [function(transaction)]
            return self.drafts(transaction.emitted)

        key = tag_hash(f"idempotency={idempotency_key}") if idempotency_key is not None else None
        try:
            written = await self.store.write(Request(apply=(apply,), idempotency_key=key))
        except ApplyFailed as error:
            if error.__cause__ is not None:
                raise error.__cause__ from None
            raise
        return results[0], self._receipt(written, None)

    def _receipt(self, written: Written, result: None) -> Receipt[None]:
        position = Position.of(self.store.log_id, written.first, written.last)
        return Receipt(self, position, result, replayed=written.replayed)

    # ------------------------------------------------------------------------------------------------------ reading

    def query(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """A reading statement on the store's database."""
        query = getattr(self.store, "query", None)
        if query is None:
            raise MissingCapability(f"this store ({type(self.store).__name__}) has no SQL; use a sqlite: URL")
        rows: list[tuple[Any, ...]] = query(statement, values)
        return rows

    def selection(self, types: Sequence[type[Event]], criteria: Criteria | None) -> Selection:
        """Types and criteria together: events of these types that match."""
        names = self._names(types)
        if criteria is None:
            return (Term(types=names),) if names else ()
        terms: list[Term] = []
        for wanted, tags in criteria.terms:
            inner = self._names(wanted)
            both = tuple(name for name in inner if not names or name in names) if inner else names
            if both or not (inner and names):
                terms.append(Term(types=both, tags=tags))
        return tuple(terms)

    def _names(self, types: Sequence[type[Event]]) -> tuple[str, ...]:
        if not types or Event in types:
            return ()
        return self.registry.names(self.registry.covering(types))

    async def position(self, place: Position | datetime | int | None) -> int | None:
        """A place in the log as a position."""
        if isinstance(place, Position):
            return place.within(self.store.log_id).last
        if isinstance(place, datetime):
            return await self.store.position_at(microseconds(place))
        return place

    def recorder(self) -> Callable[[], Awaitable[Callable[[Row], Recorded[Any]]]]:
        """A function that turns rows into `Recorded`; called again for each page, because a log's types grow."""
        decoders: dict[int, tuple[str, int, Callable[[bytes], Event]]] = {}
        log_id = self.store.log_id

        def decode(row: Row) -> Recorded[Any]:
            name, version, payload = decoders[row[2]]
            return Recorded(payload(row[11]), row, name, version, log_id)

        async def ready() -> Callable[[Row], Recorded[Any]]:
            types = await self.store.types()
            for number in types.keys() - decoders.keys():
                name, version = types[number]
                decoders[number] = (name, version, self.registry.decoder(name, version))
            return decode

        return ready

    # ------------------------------------------------------------------------------------------------------ waiting

    async def wait(
        self, position: Position, consumers: Sequence[Callable[..., object] | str], timeout_seconds: float
    ) -> None:
        """See `Receipt.wait`."""
        self._outside("wait for others")
        rows = await self._rows(position)
        if consumers:
            names = [self._consumer_name(consumer) for consumer in consumers]
            await wait_until_done(
                self.store, self.world, self._bell, rows, consumers=names, timeout_seconds=timeout_seconds
            )
        else:
            await wait_until_settled(self.store, self.world, self._bell, rows, timeout_seconds=timeout_seconds)

    async def first(self, position: Position, types: Sequence[type[Event]], timeout_seconds: float) -> Event:
        """See `Receipt.first`."""
        self._outside("wait for a reply")
        names = self._names(types)
        found: list[Recorded[Any]] = []
        decode = await self.recorder()()
        known: Mapping[int, tuple[str, int]] = {}

        async def refresh() -> None:
            nonlocal decode, known
            decode, known = await self.recorder()(), await self.store.types()

        def seen(row: Row) -> bool:
            name, _ = known.get(row[2], ("", 0))
            if self.registry.current_name(name) in names:
                found.append(decode(row))
            return bool(found)

        await wait_until_settled(
            self.store,
            self.world,
            self._bell,
            await self._rows(position),
            timeout_seconds=timeout_seconds,
            seen=seen,
            before_reading=refresh,
        )
        if not found:
            wanted = " or ".join(event.__name__ for event in types)
            raise NotCaughtUp(f"all that the write at {position} caused is done, and no {wanted} came of it")
        event: Event = found[0].event
        return event

    async def _rows(self, position: Position) -> list[Row]:
        position.within(self.store.log_id)
        if position.last < position.first:
            return []
        page = await self.store.read((), after=position.first - 1, before=position.last + 1, limit=100_000)
        return page.rows

    def _consumer_name(self, consumer: Callable[..., object] | str) -> str:
        if isinstance(consumer, str):
            if all(consumer != one.name for one in self._definitions):
                raise ValueError(f"no consumer is called {consumer!r}; there are: {self._consumer_names()}")
            return consumer
        for definition in self._definitions:
            if definition.function is consumer:
                return definition.name
        raise ValueError(f"{consumer!r} is not a handler of this application; there are: {self._consumer_names()}")

    def _consumer_names(self) -> str:
        return ", ".join(definition.name for definition in self._definitions) or "none"

    def _outside(self, what: str) -> None:
        name = inside_handler.get()
        if name is not None:
            raise InsideHandler(
                f"{name} tried to {what} while it handles an event. That would be stored apart from its progress, and "
                "twice after a crash. Return the events instead"
            )
