"""From a stored row to a handler's call, and from what it returned to events ready to be stored.

One `Handling` is one registered handler, bound to the application's registry and dependencies. It decodes the payload,
builds the arguments the handler asked for, checks the result and encodes it with cause, root and correlation. It
decides nothing about order, retries or progress: that is the machine's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from enum import Enum
from inspect import iscoroutine
from typing import Any, Protocol

from ensue.consumers.handler import HandlerDefinition, Parameter, Start, Wants
from ensue.consumers.machine import Slot
from ensue.consumers.policy import Retry, delay_seconds, policy_for
from ensue.consumers.routing import Routing, idempotency_key
from ensue.consumers.transaction import Transaction
from ensue.errors import InvalidEvent, StorageFull, StreamClosed, Unavailable, UnreadableEvent
from ensue.events.context import Context
from ensue.events.message import Event
from ensue.events.recorded import Position, Recorded, archived_error, microseconds
from ensue.events.registry import Read, Registry
from ensue.events.stored import TENANT, Draft, Meta, Row, decode_meta, tenant_of
from ensue.events.upcasting import Parts
from ensue.store.base import Consumer, Emission, SqlTransaction, Store
from ensue.world import World

__all__ = [
    "DEPTH_LIMIT",
    "Handling",
    "Inside",
    "KeysAway",
    "Mode",
    "NotDue",
    "Scope",
    "Undecodable",
    "UnreadableHere",
    "inside_handler",
]

DEPTH_LIMIT = 1_000
"""How long a chain of causes may grow before it is called a loop."""


class Inside:
    """Whose handler runs, and what it does. One that `may_send` commands handles an event; `row`, where it is one of a log, and which."""

    __slots__ = ("doing", "log_id", "may_send", "name", "row")

    def __init__(
        self,
        name: str,
        doing: str = "handles an event",
        *,
        row: Row | None = None,
        log_id: str = "",
        may_send: bool = False,
    ) -> None:
        self.name = name
        self.doing = doing
        self.row = row
        self.log_id = log_id
        self.may_send = may_send


inside_handler: ContextVar[Inside | None] = ContextVar("ensue_inside_handler", default=None)
"""The handler that runs in this context."""


class Mode(Enum):
    """How a handler is run. See docs/consumers.md."""

    ASYNC = "async"
    THREAD = "thread"
    PURE = "pure"
    INSIDE = "inside"


class UnreadableHere(Exception):
    """The event was written by newer code: not a failure of the event but of this process."""


class NotDue(Exception):
    """The delivery is to be made later, at `due` (microseconds): no failure, and nobody need hear of it."""

    def __init__(self, due: int) -> None:
        super().__init__("not due yet")
        self.due = due


class Scope(Protocol):
    """The application's dependencies: values by the type a parameter is annotated with."""

    def value(self, parameter: Parameter) -> Any: ...


class Handling:
    """See the module. `bind` must be called before anything is handled."""

    drives: Callable[..., Any] | None = None
    """What runs it, in the place of the delivery machine's runner and called as that is."""
    failures_trip = True
    """Whether many keys that fail without a success are a bug or an outage. Messages that nobody can read are neither."""

    def __init__(
        self, definition: HandlerDefinition, registry: Registry, world: World, scope: Scope, *, retry: Retry
    ) -> None:
        self.name = definition.name
        self._inside = Inside(definition.name)
        self.start: Start | None = definition.start
        self.key_tag = definition.key
        self.mode = _mode(definition)
        self.concurrency = definition.concurrency
        self.timeout_seconds = definition.timeout.total_seconds() if definition.timeout else None
        covered = registry.covering(definition.events)
        registry.covering(definition.emits)
        self.type_names = tuple(dict.fromkeys(registry.names(covered)))
        self.former_names = {name: was for name, was in registry.former().items() if name in self.type_names}
        default = definition.retry if isinstance(definition.retry, Retry) else retry
        policies = [default, *(definition.retry.values() if isinstance(definition.retry, Mapping) else ())]
        # The death of a process has no exception type, and the attempts before it may have failed in any way: an event is
        # given up for it only where every policy would have given it up.
        self.retry_of_deaths = max(policies, key=lambda policy: policy.attempts)
        self.longest_delay_seconds = max(delay_seconds(policy, policy.attempts, 1.0) for policy in policies)
        self._retries = definition.retry
        self._retry = retry
        self._function = definition.function
        self._parameters = definition.parameters
        self._reads = {one.event: one.read for one in definition.noticed}
        self._recorded = definition.recorded
        self._registry = registry
        self._world = world
        self._scope = scope
        self._routing = Routing(definition.key)
        self._log_id = ""
        self._maker = 0
        self._types: Mapping[int, tuple[str, int]] = {}
        self._readers: dict[int, Read] = {}

    @property
    def segments(self) -> int:
        return self._routing.segments

    def bind(self, consumer: Consumer, log_id: str) -> None:
        """Know the consumer's number and its log."""
        self._maker = consumer.id
        self._log_id = log_id

    async def start_position(self, store: Store) -> int:
        """The position after which a new consumer begins."""
        start = self.start
        if isinstance(start, Position):
            return start.within(store.log_id).last
        if isinstance(start, datetime):
            return await store.position_at(microseconds(start))
        return store.head() if start == "now" else 0

    def positions_since(self, handles: Mapping[str, int], types: Mapping[int, tuple[str, int]]) -> dict[int, int]:
        """For each number of a type that is handled: the position after which it is."""
        self._types = types
        since: dict[int, int] = {}
        for number, (name, _) in types.items():
            # What was handled under a former name still is, from where it was.
            found = [handles[known] for known in (name, self._registry.current_name(name)) if known in handles]
            if found:
                since[number] = min(found)
        return since

    def missing(self, consumer: Consumer) -> list[str]:
        """Types that the log says this consumer handles, and that this code does not."""
        return [name for name in consumer.handles if self._registry.current_name(name) not in self.type_names]

    def policy(self, error: BaseException) -> Retry:
        """When to try again after this error. What cannot be decoded never gets better by itself, nor does a closed stream."""
        if isinstance(error, KeysAway):
            return Retry.forever
        if isinstance(error, Undecodable | StreamClosed):
            return Retry.never
        return policy_for(self._retries, error, self._retry)

    # ------------------------------------------------------------------------------------------------------ calling

    def call(self, slot: Slot) -> Sequence[Draft]:
        """Run a plain handler here and now."""
        calls = self._calls(slot)
        token = inside_handler.set(self._inside)
        try:
            return self.drafts(self._called(calls), slot)
        finally:
            inside_handler.reset(token)

    async def acall(self, slot: Slot) -> Sequence[Draft]:
        """Run an async handler."""
        calls = self._calls(slot)
        inside_handler.set(Inside(self.name, row=slot.row, log_id=self._log_id, may_send=True))
        if len(calls) == 1:
            result = await self._function(*calls[0])
            if result is not None:
                await self._prepared(result)
            return self.drafts(result, slot)
        results = [self.events_of(await self._function(*arguments)) for arguments in calls]
        made = [event for events in results for event in events]
        await self._prepared(made)
        return self.drafts(made, slot)

    async def _prepared(self, result: object) -> None:
        """Make the keys that encoding needs, where it can be seen which."""
        try:
            await self._registry.prepare(result if isinstance(result, list | tuple) else (result,))
        except (Unavailable, StorageFull) as error:
            raise KeysAway(str(error)) from error

    def prepare(self, slot: Slot) -> Callable[[], object]:
        """The call of a plain handler, to be made on a thread. Its result goes to `drafts` on the loop's thread."""
        calls = self._calls(slot)

        def call() -> object:
            token = inside_handler.set(self._inside)
            try:
                result = self._called(calls)
                return result if result is None or isinstance(result, Event) else _several(result)
            finally:
                inside_handler.reset(token)

        return call

    def check(self, slot: Slot) -> None:
        """Whether the event can be decoded, before a commit is built on it."""
        self._event(slot)

    def emission(self, slot: Slot) -> Emission:
        """The call of a handler that runs inside the commit."""

        def emit(sql: SqlTransaction) -> Sequence[Draft]:
            started = self._world.monotonic()
            calls = self._calls(slot, Transaction(sql))
            token = inside_handler.set(self._inside)
            try:
                return self.drafts(self._called(calls), slot)
            finally:
                inside_handler.reset(token)
                slot.micros = int((self._world.monotonic() - started) * 1_000_000)

        return emit

    def drafts(self, result: object, slot: Slot) -> Sequence[Draft]:
        """What the handler returned, checked and encoded. Errors: `TypeError`, `InvalidEvent`, `AlreadyForgotten`."""
        if result is None:
            return ()
        try:
            return self._drafts(result, slot)
        except (Unavailable, StorageFull) as error:  # nothing else is asked for here
            raise KeysAway(str(error)) from error

    def _drafts(self, result: object, slot: Slot) -> Sequence[Draft]:
        events = self.events_of(result)
        row = slot.row
        meta = decode_meta(row[10])
        if meta.depth >= DEPTH_LIMIT:
            raise InvalidEvent(f"a chain of {DEPTH_LIMIT} causes ends here: do handlers emit what they react to?")
        position, root = row[0], row[7]
        tenant = tenant_of(meta)
        headers = {TENANT: tenant} if tenant is not None else None
        draft, world = self._registry.draft, self._world
        drafts: list[Draft] = []
        for event in events:
            drafts.append(
                draft(
                    event,
                    id=world.new_id(),
                    time=world.now(),
                    correlation=meta.correlation,
                    causation=row[1],
                    depth=meta.depth + 1,
                    traceparent=meta.traceparent,
                    tracestate=meta.tracestate,
                    headers=headers,
                    cause=position,
                    root=position if root is None else root,
                    maker=self._maker,
                    nth=len(drafts),
                )
            )
        return drafts

    def events_of(self, result: object) -> tuple[Event, ...]:
        """What a handler returned. Errors: `TypeError`."""
        if result is None:
            return ()
        return (result,) if isinstance(result, Event) else _several(result)

    def after(self, event: Event, cause: Meta, *, causation: bytes, id: bytes) -> Draft:
        """An event that something outside the log caused. Errors: `InvalidEvent`."""
        return self._registry.draft(
            event,
            id=id,
            time=self._world.now(),
            correlation=cause.correlation,
            causation=causation,
            depth=cause.depth + 1,
            traceparent=cause.traceparent,
            tracestate=cause.tracestate,
            maker=self._maker,
        )

    def provided(self, parameter: Parameter) -> Any:
        """What the application provides for a parameter."""
        return self._scope.value(parameter)

    def _called(self, calls: Sequence[list[Any]]) -> object:
        """What the plain function returned: of several calls, all their events, in order."""
        if len(calls) == 1:
            return self._function(*calls[0])
        return [event for arguments in calls for event in self.events_of(self._function(*arguments))]

    def _calls(self, slot: Slot, transaction: Transaction | None = None) -> Sequence[list[Any]]:
        """The arguments of each call that this delivery is: one, or for an event that is read as several one for each of them
        that is handled here, in order."""
        event = self._event(slot)
        if isinstance(event, tuple):
            return [self._arguments(slot, one, part, transaction) for part, one in event]
        return (self._arguments(slot, event, 0, transaction),)

    def _arguments(self, slot: Slot, event: Event, part: int, transaction: Transaction | None) -> list[Any]:
        arguments: list[Any] = [self._given(event) if self._reads else event]
        if self._recorded:
            name, version = self._types[slot.row[2]]
            arguments = [Recorded(event, slot.row, name, version, self._log_id, part)]
        for parameter in self._parameters:
            if parameter.wants is Wants.CONTEXT:
                arguments.append(self._context(slot, part))
            elif parameter.wants is Wants.TRANSACTION:
                arguments.append(transaction)
            else:
                arguments.append(self._scope.value(parameter))
        return arguments

    def _given(self, event: Event) -> object:
        """What was noticed, again, of the event as which it is stored."""
        read = self._reads.get(type(event))
        if read is None:
            return event
        try:
            return read(event, self._registry)
        except (Unavailable, StorageFull) as error:
            raise KeysAway(str(error)) from error
        except Exception as error:
            raise Undecodable(f"{type(event).__name__} cannot be read again: {error}") from error

    def _context(self, slot: Slot, part: int) -> Context:
        row: Row = slot.row
        key = idempotency_key(self._log_id, self.name, row[0], slot.edits)
        if part:
            key = f"{key}.{part}"
        return Context(row, self._world, key=self._routing.text(row), attempt=slot.attempt, idempotency_key=key)

    def _event(self, slot: Slot) -> Event | tuple[tuple[int, Event], ...]:
        """The event, or those that it is read as and that are handled here, each with its number."""
        number = slot.row[2]
        read = self._readers.get(number)
        if read is None:
            try:
                read = self._registry.reader(*self._types[number])
            except UnreadableEvent as error:
                raise UnreadableHere(str(error)) from error
            self._readers[number] = read
        try:
            event = read(slot.row[11] if slot.data is None else slot.data)
            if isinstance(event, Parts):
                return tuple(self._registry.selected(event, slot.row, ((self.type_names, ()),)))
            return event
        except (Unavailable, StorageFull) as error:
            raise KeysAway(str(error)) from error
        except Exception as error:
            name, version = self._types[number]
            gone = archived_error(slot.row, name) if slot.data is None else None
            if gone is not None and not gone.file:
                return ()  # nobody can have it, and its type said that nobody would want it
            raise Undecodable(str(gone or f"{name} version {version} cannot be decoded: {error}")) from error


class KeysAway(Exception):
    """The keys of personal data cannot be had now: no failure of the event."""


class Undecodable(Exception):
    """The payload is not what its type says."""


def _mode(definition: HandlerDefinition) -> Mode:
    if definition.is_async:
        return Mode.ASYNC
    if definition.inside:
        return Mode.INSIDE
    return Mode.PURE if definition.pure else Mode.THREAD


def _several(result: object) -> tuple[Event, ...]:
    if isinstance(result, Iterable) and not isinstance(result, str | bytes | Mapping):
        events = tuple(result)
        wrong = next((event for event in events if not isinstance(event, Event)), None)
        if wrong is None:
            return events
        raise TypeError(
            f"the handler returned a value of type {type(wrong).__name__} among its events; it returns events, or None"
        )
    if iscoroutine(result):
        result.close()
        raise TypeError(
            "the handler is a plain function and returned a coroutine: what stands around the async function, such as a "
            "decorator, must be `async def` as well"
        )
    raise TypeError(
        f"the handler returned a value of type {type(result).__name__}; it returns an event, several, or None"
    )
