"""The handler of a direct subscription: how it is called with messages as they come, and with those that the log keeps.

Both ways come to the same: the same arguments, the same idempotency key, and events under ids made of the message's. A message may
come one way and then the other (its sender repeats it, or a process died before it was accepted); what it causes is stored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hashlib import blake2b
from typing import Any, TypeAlias

import msgspec

from ensue.channels import Channel
from ensue.channels.base import Received
from ensue.consumers.calls import SWALLOWED_SECONDS
from ensue.consumers.handler import HandlerDefinition, Wants
from ensue.consumers.handling import Handling, Inside, Mode, Scope, Undecodable, inside_handler
from ensue.consumers.inbox import Writer
from ensue.consumers.machine import Slot
from ensue.consumers.policy import Retry
from ensue.consumers.routing import ONE_ORDER
from ensue.consumers.wire import Wire, id_of, stored_type
from ensue.events.context import Context
from ensue.events.message import Event, tag_text
from ensue.events.registry import Registry, declaration
from ensue.events.stored import Draft, decode_meta
from ensue.observe.signals import HandlerStuck, Observer
from ensue.world import Threads, World

__all__ = ["DirectHandling", "Lane"]

Lane: TypeAlias = object
"""A key before it is a text: the value of its field, with the name of its tag where there are several. None: no key."""


class DirectHandling(Handling):
    """The handler of a direct subscription: for messages as they come, and for those that the log keeps."""

    def __init__(
        self,
        definition: HandlerDefinition,
        registry: Registry,
        world: World,
        scope: Scope,
        channel: Channel,
        *,
        retry: Retry,
    ) -> None:
        # What the log keeps is ordered by the key that it was kept under.
        super().__init__(msgspec.structs.replace(definition, key=None), registry, world, scope, retry=retry)
        self.channel = channel
        self.type_names = (stored_type(definition.name),)
        self.former_names = {}
        self.start = "beginning"
        self.channel_start = definition.start
        self.function = definition.function
        self.parameters = definition.parameters
        self.batch = definition.batch
        self.registry = registry
        self.wire: Wire | None = None
        self._writer: Writer | None = None
        self.called = self.mode
        """How the function is called. For the log it is a handler that waits, and keeps its limit itself."""
        self.mode = Mode.ASYNC
        self.limit_seconds, self.timeout_seconds = self.timeout_seconds, None
        self._observe: Observer | None = None
        self._threads: Threads | None = None
        self._unended: set[asyncio.Future[Any]] = set()
        self._tag = definition.key
        self.fields = {kind: self._field(kind) for kind in registry.covering(definition.events)}
        """Of each type that is handled, the field that its key is and the name of its tag; None where it has no key."""
        self.one_tag = len({field[1] for field in self.fields.values() if field is not None}) < 2

    def _field(self, kind: type[Event]) -> tuple[str, str] | None:
        declared = declaration(kind)
        if self._tag is None:
            return declared.key
        if self._tag == ONE_ORDER:
            return ("", "#")
        return next(pair for pair in (declared.key, *declared.tags) if pair is not None and pair[1] == self._tag)

    def connect(self, wire: Wire, writer: Writer, observe: Observer) -> None:
        """Called before anything is handled."""
        self.wire, self._writer, self._observe = wire, writer, observe

    def lane(self, event: Event) -> Lane:
        """Of which key it is; None for an event that waits for nobody."""
        field = self.fields[type(event)]
        if field is None:
            return None
        value = getattr(event, field[0]) if field[0] else ""
        return value if self.one_tag else (field[1], value)

    def key(self, event: Event) -> str | None:
        """The key as `name=value`. Errors: `InvalidEvent`."""
        field = self.fields[type(event)]
        if field is None:
            return None
        return tag_text(event, *field) if field[0] else "#="

    # ---------------------------------------------------------------------------------- what the log keeps

    async def acall(self, slot: Slot) -> Sequence[Draft]:
        """A message that the log keeps. What comes of it is stored under ids of its own, before the commit: as what it would
        have been had it been handled directly, because perhaps it was."""
        assert self.wire is not None, "connected before it runs"
        inside_handler.set(Inside(self.name, may_send=True))
        try:
            received = self.wire.stored(slot.row[11] if slot.data is None else slot.data)
            event = self.wire.event(received)
        except Exception as error:
            raise Undecodable(str(error)) from error
        call = self.caller(attempt=slot.attempt, edits=slot.edits)
        result = await call([event] if self.batch else event, received)
        if result is not None:
            await self.store(received, result, edits=slot.edits)
        return ()

    def context(self, received: Received, *, attempt: int, edits: int = 0) -> Context:
        """What a handler may ask about a message. Its idempotency key is the same where the log keeps it."""
        assert self.wire is not None, "connected before it runs"
        now = self._world.now()
        draft = self.wire.draft(self.wire.envelope(received), now=now)
        key = blake2b(draft.id + f"{self.name}/{edits}".encode(), digest_size=16).hexdigest()
        row = (0, draft.id, 0, draft.stream, None, now, None, None, None, None, draft.meta, draft.data)
        return Context(row, self._world, key=decode_meta(draft.meta).key or "", attempt=attempt, idempotency_key=key)

    def quick(self) -> Callable[[Any], Any] | None:
        """The handler itself, where it wants nothing but the event and waits by itself."""
        alone = not self.parameters and self.limit_seconds is None
        return self.function if alone and self.called is Mode.ASYNC else None

    # ------------------------------------------------------------------------------------------------------- calling

    def caller(self, *, attempt: int | None = None, edits: int = 0) -> Callable[[Any, Received], Any]:
        """How the function is called with an event, or a list of them, and the message it came in."""
        function, parameters, limit = self.function, self.parameters, self.limit_seconds

        def arguments(event: Any, received: Received) -> list[Any]:
            given = [event]
            for parameter in parameters:
                if parameter.wants is Wants.CONTEXT:
                    number = max(1, received.deliveries) if attempt is None else attempt
                    given.append(self.context(received, attempt=number, edits=edits))
                else:
                    given.append(self.provided(parameter))
            return given

        async def inline(event: Any, received: Received) -> Any:
            return function(event)

        async def given(event: Any, received: Received) -> Any:
            return await function(*arguments(event, received))

        async def limited(event: Any, received: Received) -> Any:
            async with self._watched(later=SWALLOWED_SECONDS), asyncio.timeout(limit):
                return await function(*arguments(event, received))

        async def on_thread(event: Any, received: Received) -> Any:
            call = partial(function, *arguments(event, received))
            async with self._watched(later=0.0):
                return await self._on_thread(call)

        if self.called is Mode.PURE:
            return inline
        if self.called is Mode.THREAD:
            return on_thread
        return given if limit is None else limited

    @asynccontextmanager
    async def _watched(self, *, later: float) -> AsyncGenerator[None, None]:
        """What ends so many seconds after its limit has failed, whatever it returns; until it ends its key waits."""
        limit, started, watch = self.limit_seconds, self._world.monotonic(), None
        if limit is not None:
            watch = self._world.call_later(limit + later, self._tell_stuck)
        try:
            yield
        except TimeoutError:
            if limit is None or self._world.monotonic() - started < limit:
                raise
            raise TimeoutError(f"the handler took longer than its limit of {limit:g} s") from None
        finally:
            if watch is not None:
                watch.cancel()
        if limit is not None and (took := self._world.monotonic() - started) >= limit + later:
            raise TimeoutError(f"the handler took {took:.3g} s, its limit is {limit:g} s")

    def _tell_stuck(self) -> None:
        if self._observe is not None and self.limit_seconds is not None:
            self._observe(HandlerStuck(consumer=self.name, position=0, seconds=self.limit_seconds))

    async def _on_thread(self, call: Callable[[], Any]) -> Any:
        if self._threads is None:
            # For what comes and for what the log keeps: neither waits for a thread of the other's.
            self._threads = self._world.threads(2 * self.concurrency, name=self.name)
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def run() -> Any:
            inside_handler.set(Inside(self.name))
            return call()

        def done(result: Any, error: BaseException | None) -> None:
            if error is None:
                ended.set_result(result)
            else:
                ended.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
                ended.exception()  # whoever waited may wait no more

        self._unended.add(ended)
        ended.add_done_callback(self._unended.discard)
        self._threads.run(run, done)
        return await asyncio.shield(ended)

    def unended(self) -> list[asyncio.Future[Any]]:
        """Calls on threads, which nobody can stop."""
        return list(self._unended)

    def close(self) -> None:
        """Start no more threads."""
        if self._threads is not None:
            self._threads.close()
            self._threads = None

    # ------------------------------------------------------------------------------------------------------- emitting

    async def store(self, received: Received, result: Any, *, edits: int = 0) -> tuple[Sequence[Draft], str | None]:
        """Store what the function returned, under ids made of the message's: what is stored already adds nothing. With it the
        address of whoever asked, if somebody did. Errors: `TypeError`, `InvalidEvent`; those of a store that nothing can be
        written to any more."""
        assert self.wire is not None, "connected before it runs"
        assert self._writer is not None, "connected before it runs"
        envelope = self.wire.envelope(received)
        id = id_of(envelope.source, envelope.id)
        cause = decode_meta(self.wire.draft(envelope, now=self._world.now()).meta)
        edited = f"/{edits}" if edits else ""
        drafts: list[Draft] = []
        for nth, event in enumerate(self.events_of(result)):
            own = blake2b(id + f"{self.name}/{nth}{edited}".encode(), digest_size=16).digest()
            drafts.append(self.after(event, cause, causation=id, id=own))
        await self._writer.write(drafts)
        return drafts, envelope.reply_to
