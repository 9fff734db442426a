"""An open application: its store, its codec, and its consumers when they run here. `App` is the door to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast

from ensue.app.checks import article, check_event, check_types
from ensue.app.checkup import Checkup
from ensue.app.dependencies import Asker, Dependencies
from ensue.app.domain import Domain
from ensue.app.forgetting import Forgetting
from ensue.app.health import Health
from ensue.app.lifeline import Lifeline
from ensue.app.receipt import Receipt
from ensue.app.results import Results
from ensue.app.traffic import Traffic, handling_of
from ensue.app.transaction import OpenTransaction
from ensue.channels import Channel
from ensue.consumers.closing import with_closed_streams
from ensue.consumers.handler import HandlerDefinition
from ensue.consumers.handling import DEPTH_LIMIT, Handling, inside_handler
from ensue.consumers.node import Node, define_consumers
from ensue.consumers.operations import release
from ensue.consumers.outbox import later
from ensue.consumers.policy import Retry
from ensue.consumers.transaction import Transaction
from ensue.consumers.waiting import Bell, wait_until_done, wait_until_settled
from ensue.domain.call import PRINCIPAL, Call
from ensue.domain.registered import Registered
from ensue.domain.views.inline import InlineStore
from ensue.errors import (
    ApplyFailed,
    DefinitionError,
    InsideHandler,
    InvalidEvent,
    MissingCapability,
    NotCaughtUp,
    UnreadableEvent,
    WiringError,
)
from ensue.events.message import Command, Event, closing_types, tag_of
from ensue.events.recorded import Archived, Criteria, Position, Recorded, archived_error, microseconds
from ensue.events.registry import Read, Registry, declaration, fingerprint, redraft
from ensue.events.stored import Draft, Row, decode_meta, tag_hash
from ensue.events.upcasting import Parts
from ensue.observe.signals import Observer
from ensue.store.base import (
    Condition,
    Consumer,
    DeadLetter,
    Expected,
    OwnTransactions,
    Request,
    Selection,
    SqlTransaction,
    Store,
    Term,
    Written,
)
from ensue.store.keys import KeyRing
from ensue.store.nodes import here
from ensue.world import World

__all__ = ["Engine"]

T = TypeVar("T")

PAGE = 1000
_ADVICE = {
    "handles an event": "That would be stored apart from its progress, and twice after a crash. Return the events instead",
    "decides a command": "What a command leads to is what its handler returns, and it may be called again. Return the events",
    "answers a query": "A query only reads. Send a command instead",
}
_NOTHING = Term(types=("",))
"""No type has this name. An empty selection would be every event."""


class Engine:
    """See the module. Opened once; closed once."""

    def __init__(
        self,
        name: str,
        store: Store,
        world: World,
        registry: Registry,
        definitions: Sequence[HandlerDefinition],
        dependencies: Dependencies,
        registered: Registered,
        *,
        retry: Retry,
        observe: Observer,
        drain_seconds: float,
    ) -> None:
        if closing_types:
            store = with_closed_streams(store, registry)
        if any(view.when == "inline" for view in registered.views):
            store = cast(Store, InlineStore(store))
        self.store = store
        self.world = world
        self.registry = registry
        self.lifeline = Lifeline(observe)
        self._definitions = definitions
        self._dependencies = dependencies
        self._observe = observe
        self._drain_seconds = drain_seconds
        self._bell = Bell()
        self._handlings = [handling_of(one, registry, world, dependencies, retry=retry) for one in definitions]
        self._traffic = Traffic(name, registry, store, world, observe, drain_seconds=drain_seconds)
        self.domain = Domain(
            registered,
            store,
            registry,
            dependencies,
            self._drafts_of_call,
            world=world,
            observe=observe,
            bell=self._bell,
            kept=self._rows_are_kept,
            tables=any(one.inside for one in definitions),
        )
        keys = cast(KeyRing, registry.keys)
        self._forgetting = Forgetting(store, registry, keys, world, self.domain.states.forget)
        self._stack = AsyncExitStack()
        self._checkup = Checkup(store, world)
        self._node: Node | None = None
        self._open = False

    # ------------------------------------------------------------------------------------------------------ opening

    @property
    def sought(self) -> dict[str, Any]:
        """What is looked for in the log, by the name of its consumer."""
        return {one.name: one.sought for one in self._definitions if one.sought is not None}

    async def open(self, *, consume: bool, chosen: Collection[str] | None = None) -> None:
        """Open the store and make every consumer known to it; with `consume`, make the dependencies, begin the lifecycle
        hooks and run the consumers here, or those of them that are chosen. What was begun is ended in reverse order when
        something fails."""
        self._check(consume=consume)
        self.loop = asyncio.get_running_loop()
        try:
            await self.store.open(self.world)
            self._stack.push_async_callback(self.store.close)
            self._stack.push_async_callback(self._forgetting.close)
            await self._forgetting.open()
            self._stack.push_async_callback(self.domain.close)
            consumers = await define_consumers(self.store, self.world, self._handlings)
            self._stack.push_async_callback(self.domain.views.stop)
            await self.domain.views.open()
            registered = self.domain.registered
            calls: list[Asker] = [*registered.commands, *registered.queries]
            self._stack.callback(self.domain.changes.close)
            if not consume:
                await self._dependencies.open(self._stack, calls, hooks=False)
            else:
                # All of them are known to the log, whoever runs them: a consumer that runs elsewhere is not gone.
                here = [index for index, one in enumerate(self._definitions) if chosen is None or one.name in chosen]
                asking = None if chosen is None else [*calls, *(self._definitions[index] for index in here)]
                await self._dependencies.open(self._stack, asking)
                await self._consume([consumers[index] for index in here], [self._handlings[index] for index in here])
                await self._keep_views(chosen)
            self._open = True
        except BaseException:
            await self.close()
            raise

    async def _consume(self, consumers: Sequence[Consumer], handlings: Sequence[Handling]) -> None:
        host, pid = here(), os.getpid()
        self._stack.push_async_callback(self._traffic.close)
        await self._traffic.open(handlings)
        self._node = node = Node(self.store, self.world, self._observe, self._bell, host=host, pid=pid)

        async def stop() -> None:
            await node.stop(limit_seconds=self._drain_seconds)

        self._stack.push_async_callback(stop)
        await node.start(consumers, handlings)
        self.lifeline.watch(node.tasks)
        self._stack.push_async_callback(self._traffic.stop_receiving)
        self.lifeline.watch(self._traffic.receive(node.runners))
        await self._traffic.settled()

    async def _keep_views(self, chosen: Collection[str] | None) -> None:
        assert self._node is not None
        self._stack.push_async_callback(self.domain.views.stop)
        await self.domain.views.start(self._node, self.lifeline.watch, chosen=chosen)

    async def close(self) -> None:
        """Drain, release, run the rest of hooks and factories, close the store: each also when another one fails."""
        self.lifeline.closing = True
        await self._stack.aclose()

    async def health(self) -> Health:
        """See `App.health`."""
        state = "is starting" if not self._open else "is stopping" if self.lifeline.closing else "running"
        return await self._checkup.look(state, self.lifeline.failure, self._node if self._open else None)

    def _check(self, *, consume: bool) -> None:
        registered = self.domain.registered
        handlers: list[Asker] = [*(self._definitions if consume else ()), *registered.commands, *registered.queries]
        problems = self._dependencies.check(handlers, all_factories=consume)
        if problems:
            raise WiringError("\n".join(problems))
        self.domain.check()
        if not consume:
            return
        inside = [definition.name for definition in self._definitions if definition.inside]
        if inside and not self.store.capabilities.sql:
            raise MissingCapability(
                f"a Transaction needs SQL, which this store ({type(self.store).__name__}) has not, and is taken by "
                f"{', '.join(inside)}: use a sqlite: or postgresql: URL, or handlers that return events"
            )

    # ------------------------------------------------------------------------------------------------------ writing

    def drafts(
        self,
        events: Iterable[Event | Recorded[Any]],
        *,
        headers: Mapping[str, str] | None = None,
        traceparent: str | None = None,
    ) -> list[Draft]:
        """Encode for one write. Its new events share one correlation, the id of the first of them; a `Recorded` keeps its
        own. Errors: `InsideHandler`, `InvalidEvent`."""
        self._outside("append events")
        return self._drafts(events, headers, traceparent)

    def _drafts(
        self, events: Iterable[Event | Recorded[Any]], headers: Mapping[str, str] | None, traceparent: str | None
    ) -> list[Draft]:
        drafts: list[Draft] = []
        now, correlation = self.world.now(), None
        whole: set[str] = set()
        for event in events:
            if isinstance(event, Recorded):
                # Parts of one stored event are written again as that event, once.
                if not event.part or event.id not in whole:
                    drafts.append(redraft(event))
                if event.part:
                    whole.add(event.id)
                continue
            check_event(event)
            id = self.world.new_id()
            correlation = correlation or id
            drafts.append(
                self.registry.draft(
                    event, id=id, time=now, correlation=correlation, headers=headers, traceparent=traceparent
                )
            )
        return drafts

    def _drafts_of_call(self, events: Iterable[Event], call: Call[Any]) -> list[Draft]:
        """What a command led to: it says who sent it, and belongs to the event whose handler did, if one did; of a handler of another
        log, what is known of an event wherever it is."""
        headers = dict(call.headers)
        if call.principal_id is not None:
            headers[PRINCIPAL] = call.principal_id
        row = call.inside.row if call.inside is not None else None
        if row is None:
            return self._drafts(events, headers or None, call.traceparent)
        meta, now = decode_meta(row[10]), self.world.now()
        if meta.depth >= DEPTH_LIMIT:
            raise InvalidEvent(f"a chain of {DEPTH_LIMIT} causes ends here: do handlers send what leads back to them?")
        ours = call.inside is not None and call.inside.log_id == self.store.log_id
        cause, root = (row[0], row[0] if row[7] is None else row[7]) if ours else (None, None)
        drafts: list[Draft] = []
        for event in events:
            check_event(event)
            drafts.append(
                self.registry.draft(
                    event,
                    id=self.world.new_id(),
                    time=now,
                    correlation=meta.correlation,
                    causation=row[1],
                    depth=meta.depth + 1,
                    traceparent=call.traceparent or meta.traceparent,
                    tracestate=None if call.traceparent else meta.tracestate,
                    headers=headers or None,
                    cause=cause,
                    root=root,
                )
            )
        return drafts

    async def append(
        self,
        drafts: Sequence[Draft],
        expected: tuple[Expected, ...] = (),
        conditions: tuple[Condition, ...] = (),
        idempotency_key: str | None = None,
        *,
        same: bytes | None = None,
    ) -> Receipt[None]:
        """Store, wait until durable. `same` stands for the fingerprint of the drafts."""
        key = print_ = b""
        if idempotency_key is not None:
            key, print_ = tag_hash(f"idempotency={idempotency_key}"), same or fingerprint(drafts)
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
        if iscoroutinefunction(function):
            raise DefinitionError(
                f"transact({getattr(function, '__name__', function)}): the transaction cannot wait for an `async def`; give a "
                "plain `def` that takes the Transaction, and await before or after it"
            )
        results: Results[T] = Results(function, kept=idempotency_key is not None)

        def apply(sql: SqlTransaction) -> Sequence[Draft]:
            transaction = Transaction(sql)
            results.take(function(transaction))
            return self._drafts(transaction.emitted, None, None)

        key = tag_hash(f"idempotency={idempotency_key}") if idempotency_key is not None else None
        await self.store.room()
        try:
            written = await self.store.write(Request(apply=(apply,), idempotency_key=key, result=results.encoded))
        except ApplyFailed as error:
            if error.__cause__ is not None:
                raise error.__cause__ from None
            raise
        result = results.again(written.result) if written.replayed else results.value
        return result, self._receipt(written, None)

    @asynccontextmanager
    async def transaction(self, idempotency_key: str | None) -> AsyncGenerator[OpenTransaction, None]:
        """See `App.transaction`."""
        self._outside("open a transaction")
        if not self.store.capabilities.own_transactions:
            raise MissingCapability(
                f"this store ({type(self.store).__name__}) has no transactions that wait: use a postgresql: URL, or "
                "transact(function) for one that is short"
            )
        own = await cast(OwnTransactions, self.store).begin()
        opened = OpenTransaction(own)
        try:
            yield opened
            await self.registry.prepare(opened.emitted)
            drafts = self._drafts(opened.emitted, None, None)
            key = print_ = b""
            if idempotency_key is not None:
                key, print_ = tag_hash(f"idempotency={idempotency_key}"), fingerprint(drafts)
            written = await own.commit(Request(events=drafts, idempotency_key=key or None, fingerprint=print_))
        finally:
            await own.roll_back()
        opened.committed(self._receipt(written, None))

    async def forget(self, tag: str, value: object) -> Receipt[bool]:
        """See `App.forget`."""
        self._outside("forget a subject")
        destroyed, written = await self._forgetting.forget(tag_of(tag, value))
        return self._receipt(written, destroyed)

    async def release(
        self, letter: DeadLetter, *, event: Event | None = None, discard: bool = False, note: str | None = None, by: str
    ) -> None:
        """Let the key of a dead letter go on. Errors: `Conflict`, `InvalidEvent` for an event of another type or version."""
        edit = None
        if event is not None:
            check_event(event)
            self.registry.add(type(event))
            page = await self.store.read((), after=letter.position - 1, before=letter.position + 1)
            stored, version = (await self.store.types())[page.rows[0][2]]
            declared = declaration(type(event))
            if self.registry.current_name(stored) != declared.name:
                raise InvalidEvent(
                    f"the dead letter {letter.id} holds {article(stored)}; it cannot become {article(declared.name)}"
                )
            if version != declared.version:
                # An edit is read as what it stands for: through the upcasters of the stored version.
                raise InvalidEvent(
                    f"the dead letter {letter.id} holds {article(stored)} of version {version}, and this code writes version "
                    f"{declared.version}: edit its fields as they are stored, with `ensue dead-letters edit {letter.id}`"
                )
            edit = self.registry.encode(event, name=stored)
        await release(self.store, self.world, letter, edit=edit, discard=discard, note=note, by=by)

    async def append_later(
        self, channel: Channel, events: Sequence[Event], due: int, idempotency_key: str | None
    ) -> Receipt[None]:
        """See `App.publish_later`."""
        await self.registry.prepare(events)
        now, drafts = self.world.now(), self.drafts(events)
        kept = [later(draft, channel, due=due, id=self.world.new_id(), now=now) for draft in drafts]
        # The same events are the same write, whenever they are to be sent.
        return await self.append(kept, idempotency_key=idempotency_key, same=fingerprint(drafts))

    async def send(
        self,
        command: Command[T],
        *,
        principal: object,
        idempotency_key: str | None,
        headers: Mapping[str, str] | None,
        traceparent: str | None,
    ) -> Receipt[T]:
        """See `App.send`."""
        answer = await self.domain.send(
            command, principal=principal, idempotency_key=idempotency_key, headers=headers, traceparent=traceparent
        )
        assert answer.position is not None
        return Receipt(self, answer.position, cast(T, answer.result), replayed=answer.replayed)

    def _receipt(self, written: Written, result: T) -> Receipt[T]:
        position = Position.of(self.store.log_id, written.first, written.last)
        return Receipt(self, position, result, replayed=written.replayed)

    # ------------------------------------------------------------------------------------------------------ reading

    def query(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """A reading statement on the store's database, from any thread: its connection belongs to the loop's."""
        query = getattr(self.store, "query", None)
        if query is None:
            raise MissingCapability(f"this store ({type(self.store).__name__}) has no SQL; use a sqlite: URL")
        try:
            here = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            here = False

        async def rows() -> list[tuple[Any, ...]]:
            found: list[tuple[Any, ...]] = query(statement, values)
            return found

        if here:
            found: list[tuple[Any, ...]] = query(statement, values)
            return found
        return asyncio.run_coroutine_threadsafe(rows(), self.loop).result()

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
        return tuple(terms) or (_NOTHING,)

    def _names(self, types: Sequence[type[Event]]) -> tuple[str, ...]:
        if not types or Event in types:
            return ()
        check_types(types)
        return self.registry.names(self.registry.covering(types)) or _NOTHING.types

    def stream(self, stream: bytes) -> bytes:
        """How the log calls a stream: of a tenant, it has a name of its own where tenants share the log."""
        found: Callable[[bytes], bytes] | None = getattr(self.store, "stream", None)
        return found(stream) if found is not None else stream

    async def after(self, place: Position | datetime | int | None) -> int:
        """The position behind which a read begins: behind a write, at the first event of a time."""
        if isinstance(place, Position):
            return place.within(self.store.log_id).last
        if isinstance(place, datetime):
            return await self.store.position_at(microseconds(place))
        return _number(place) or 0

    async def before(self, place: Position | datetime | int | None) -> int | None:
        """The position before which a read ends: before a write, before the first event of a time."""
        if isinstance(place, Position):
            return place.within(self.store.log_id).first
        if isinstance(place, datetime):
            return await self.store.position_at(microseconds(place)) + 1
        return _number(place)

    def recorder(self, selection: Selection = ()) -> Callable[[Sequence[Row]], Iterator[Recorded[Any]]]:
        """A function that turns the rows of a page into `Recorded`, each when it is asked for. `selection` is what the rows
        were read by: of an event that is read as several, those are given that match it. What retention dropped is passed over where
        types were asked for; what is in an archive that is not here raises `ArchivedEvent` there."""
        decoders: dict[int, tuple[str, int, Read]] = {}
        log_id, reader, selected = self.store.log_id, self.registry.reader, self.registry.selected
        typed = any(term.types for term in selection)

        def decoded(rows: Sequence[Row], types: Mapping[int, tuple[str, int]]) -> Iterator[Recorded[Any]]:
            number, name, version, payload = 0, "", 0, reader("", 0)
            for row in rows:
                if row[2] != number:
                    number = row[2]
                    if number not in decoders:
                        # Only now: that the log holds a type which this code cannot read is no matter for other reads.
                        decoders[number] = (*types[number], reader(*types[number]))
                    name, version, payload = decoders[number]
                try:
                    event: Any = payload(row[11])
                except Exception as error:
                    gone = archived_error(row, name)
                    if gone is not None and not (typed and gone.file):
                        if not typed:
                            here = Archived(type_name=name, type_version=version, file=gone.file)
                            yield Recorded(here, row, name, version, log_id)
                        continue
                    raise gone or _undecodable(row, name, version, error) from error
                if event.__class__ is not Parts:
                    yield Recorded(event, row, name, version, log_id)
                    continue
                terms = [(one.types, one.tags) for one in selection if one.root in (None, row[7])]
                try:
                    parts = list(selected(event, row, terms))
                except UnreadableEvent as error:
                    raise _undecodable(row, name, version, error) from error
                for part, one in parts:
                    yield Recorded(one, row, name, version, log_id, part)

        # The types are asked for each page, because a log's types grow.
        return lambda rows: decoded(rows, self.store.known_types())

    # ------------------------------------------------------------------------------------------------------ waiting

    async def wait(
        self, position: Position, consumers: Sequence[Callable[..., object] | str], timeout_seconds: float
    ) -> None:
        """See `Receipt.wait`."""
        self._outside("wait for others")
        names = [await self._consumer_name(consumer) for consumer in consumers]
        rows, left = await self._rows(position, timeout_seconds)
        if not rows:
            return
        wait = (self.store, self.world, self._bell, rows)
        if names:
            await wait_until_done(*wait, consumers=names, timeout_seconds=left)
        else:
            await wait_until_settled(*wait, timeout_seconds=left)

    async def caught_up(self, position: Position, timeout_seconds: float) -> None:
        """Until this log has come to the position, and those who keep rows in its database are done with what was written there.
        Errors: `WrongLog`, `NotCaughtUp`, `HandlerFailed`, `InsideHandler`."""
        kept = self.domain.views or any(one.inside for one in self._definitions)
        if kept or self.store.head() < position.within(self.store.log_id).last:
            self._outside("wait for others")
            await self._rows_are_kept(position, timeout_seconds)

    async def _rows_are_kept(self, position: Position, timeout_seconds: float) -> None:
        """By handlers that take a `Transaction`, and by views."""
        began = self.world.monotonic()
        inside = [one.name for one in self._definitions if one.inside]
        rows, left = await self._rows(position, timeout_seconds)
        if rows and inside:
            wait = (self.store, self.world, self._bell, rows)
            await wait_until_done(*wait, consumers=inside, timeout_seconds=left)
        left = timeout_seconds - (self.world.monotonic() - began)
        await self.domain.views.caught_up(position, timeout_seconds=left)

    async def first(self, position: Position, types: Sequence[type[Event]], timeout_seconds: float) -> Event:
        """See `Receipt.first`."""
        self._outside("wait for a reply")
        names = self._names(types)
        wanted = " or ".join(event.__name__ for event in types)
        if not types:
            raise ValueError("first() waits for an event of a type: give it one, receipt.first(OrderShipped)")
        rows, left = await self._rows(position, timeout_seconds)
        found: list[Row] = []

        def seen(row: Row) -> bool:
            if not names or self.registry.current_name(self.store.known_types()[row[2]][0]) in names:
                found.append(row)
            return bool(found)

        if rows:
            await wait_until_settled(self.store, self.world, self._bell, rows, timeout_seconds=left, seen=seen)
        if not found:
            raise NotCaughtUp(f"all that the write at {position} caused is done, and no {wanted} came of it")
        event: Event = next(self.recorder((Term(types=names),) if names else ())(found)).event
        return event

    async def _rows(self, position: Position, timeout_seconds: float) -> tuple[list[Row], float]:
        """The events of a write, also when another process has yet to make it; and what is left of the time."""
        position.within(self.store.log_id)
        rows: list[Row] = []
        after = max(position.first - 1, 0)
        left = timeout_seconds
        while after < position.last:
            page = await self.store.read((), after=after, before=position.last + 1, limit=PAGE)
            rows.extend(page.rows)
            after = page.reached
            if after < position.last and after >= self.store.head():
                left = await self._changed(after, left, position)
        return rows, left

    async def _changed(self, after: int, left: float, position: Position) -> float:
        """Wait until the log goes on; what is left of the time then. Errors: `NotCaughtUp`."""
        began = self.world.monotonic()
        try:
            async with asyncio.timeout(max(left, 0.0)):
                await self.store.changed(after)
        except TimeoutError:
            raise NotCaughtUp(
                f"the position {position} is not written yet; the log has come to {self.store.head()}. Was the position "
                "made by hand, or the database restored from a backup?"
            ) from None
        return left - (self.world.monotonic() - began)

    async def _consumer_name(self, consumer: Callable[..., object] | str) -> str:
        """By function where it is one of this application's, by name also where another one's on the same log."""
        for definition in self._definitions:
            if consumer in (definition.function, definition.name):
                return definition.name
        names = [one.name for one in await self.store.consumers() if one.status != "retired"]
        if consumer in names:
            return str(consumer)
        what = (
            f"no consumer is called {consumer!r}" if isinstance(consumer, str) else f"{consumer!r} handles nothing here"
        )
        raise ValueError(f"{what}; the consumers of this log are: {', '.join(names) or 'none'}")

    def _outside(self, what: str) -> None:
        inside = inside_handler.get()
        if inside is not None:
            raise InsideHandler(f"{inside.name} tried to {what} while it {inside.doing}. {_ADVICE[inside.doing]}")


def _undecodable(row: Row, name: str, version: int, error: Exception) -> UnreadableEvent:
    return UnreadableEvent(f"the {name} at position {row[0]}, version {version}, cannot be decoded: {error}")


def _number(place: object) -> int | None:
    if place is None or type(place) is int:
        return place
    raise TypeError(
        f"{place!r} is no place in the log: give a Position, a time (datetime), or the number of a position"
    )
