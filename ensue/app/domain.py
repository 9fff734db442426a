"""What an open application decides and answers: its commands, queries, states and views, put together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, cast

from ensue.app.dependencies import Dependencies
from ensue.app.urls import open_target
from ensue.consumers.handler import Wants
from ensue.consumers.handling import inside_handler
from ensue.consumers.waiting import Bell
from ensue.domain.call import Answer, Call
from ensue.domain.command import CommandDefinition
from ensue.domain.commands import Commands, Drafts
from ensue.domain.middleware import through
from ensue.domain.queries import Queries
from ensue.domain.query import QueryDefinition
from ensue.domain.registered import Registered
from ensue.domain.snapshots import snapshots_of
from ensue.domain.state import Decider
from ensue.domain.states import States
from ensue.domain.views.serving import Views
from ensue.domain.watching import Changes, Kept, differing
from ensue.errors import InsideHandler, MissingCapability
from ensue.events.message import Command, Query
from ensue.events.recorded import Criteria, Position
from ensue.events.registry import Registry
from ensue.observe.signals import Observer
from ensue.store.base import Store
from ensue.store.looking import Looking
from ensue.world import World

__all__ = ["Domain"]


class Domain:
    """See the module. Usable as long as the store is open. `kept` waits until rows have what was written at a position; `tables`
    says that handlers keep some of their own."""

    def __init__(
        self,
        registered: Registered,
        store: Store,
        registry: Registry,
        dependencies: Dependencies,
        drafts: Drafts,
        *,
        world: World,
        observe: Observer,
        bell: Bell,
        kept: Kept,
        tables: bool,
    ) -> None:
        self.registered = registered
        self.snapshots = snapshots_of(store, world, observe)
        self.states = States(store, registry, self.snapshots)
        self.changes = Changes(store, world, bell, kept if tables or registered.views else None)
        self._store = store
        self._world = world
        self._provided = dependencies.value
        self.commands = Commands(
            registered.commands, store, registry, self.states, dependencies, drafts, world, observe
        )
        self.views = Views(registered.views, store, registry, world, observe, bell, dependencies, open_target)
        looking = cast(Looking, store) if store.capabilities.sql else None
        self.queries = Queries(registered.queries, self.states, dependencies, looking)

    def check(self) -> None:
        """Errors: `MissingCapability` where a handler takes a `Transaction`, and the store has no SQL."""
        calls: tuple[CommandDefinition | QueryDefinition, ...] = (*self.registered.commands, *self.registered.queries)
        handlers = [one.name for one in calls if one.inside]
        if handlers and not self._store.capabilities.sql:
            raise MissingCapability(
                f"a Transaction needs SQL, which this store ({type(self._store).__name__}) has not, and is taken by "
                f"{', '.join(handlers)}: use a sqlite: or postgresql: URL, or states"
            )

    async def close(self) -> None:
        """What is written beside the log stops, and who watches is told."""
        self.changes.close()
        await self.commands.close()
        if self.snapshots is not None:
            await self.snapshots.close()

    async def state(
        self,
        kind: type[Any] | Decider[Any, Any, Any],
        key: Sequence[object],
        named: Mapping[str, object],
        at: Position | datetime | int | None,
        version: int | None,
    ) -> Any:
        """See `App.state`."""
        folding = self.states.folding_of(kind)
        if len(key) == 1 and isinstance(key[0], Criteria) and not named:
            return await self.states.as_of(folding.matching(key[0]), at, version)
        return await self.states.as_of(folding.keyed(key, named), at, version)

    async def send(
        self,
        command: Command[Any],
        *,
        principal: object,
        idempotency_key: str | None,
        headers: Mapping[str, str] | None,
        traceparent: str | None,
    ) -> Answer:
        """See `App.send`."""
        inside = inside_handler.get()
        if inside is not None and not (inside.may_send and idempotency_key is not None):
            raise _refused(inside.name, inside.doing, type(command).__name__, may_send=inside.may_send)
        definition = self.commands.handler_of(command)
        call = Call(
            command,
            self._world,
            handler=definition.name,
            principal=principal,
            idempotency_key=idempotency_key,
            headers=headers,
            traceparent=traceparent,
            inside=inside,
        )
        if not definition.middleware:
            return await self.commands.decide(definition, call)

        async def decide() -> Answer:
            return await self.commands.decide(definition, call)

        answer = await through(definition.middleware, self._provided, call, decide)
        if answer.position is None:
            raise TypeError(
                f"the middleware of {type(command).__name__} returned an Answer without a position; return the one that "
                "proceed() gave, or raise a Refusal"
            )
        return answer

    async def ask(self, query: Query[Any], principal: object, headers: Mapping[str, str] | None) -> Any:
        """See `App.ask`."""
        handler = self.queries.handler_of(query)
        if not handler.takes_call:  # most are quicker without
            return await self.queries.answer(handler, query, None)
        definition = handler.definition
        call = Call(query, self._world, handler=definition.name, principal=principal, headers=headers)

        async def answer() -> Answer:
            return Answer(await self.queries.answer(handler, query, call))

        return (await through(definition.middleware, self._provided, call, answer)).result

    async def stream(
        self, query: Query[Any], principal: object, headers: Mapping[str, str] | None
    ) -> AsyncGenerator[Any, None]:
        """See `App.stream`."""
        handler = self.queries.handler_of(query, streamed=True)
        definition = handler.definition
        call = Call(query, self._world, handler=definition.name, principal=principal, headers=headers)

        async def answer() -> Answer:
            return Answer(await self.queries.stream(handler, query, call))

        found = (await through(definition.middleware, self._provided, call, answer)).result
        async with aclosing(cast("AsyncGenerator[Any, None]", found)) as rows:
            async for row in rows:
                yield row

    async def watch(
        self, query: Query[Any], principal: object, headers: Mapping[str, str] | None
    ) -> AsyncGenerator[Any, None]:
        """See `App.watch`."""
        handler = self.queries.handler_of(query)
        definition = handler.definition
        # What an async handler asks, or what it asks by something provided, nobody can tell; nor what one without anything looks at.
        unknown = (
            definition.is_async or Wants.DEPENDENCY in handler.wants or not (handler.foldings or definition.inside)
        )
        answers = differing(
            self.changes,
            lambda: self.ask(query, principal, headers),
            tags=None if unknown else self.queries.tags_of(handler, query),
            rows=definition.inside or unknown,
        )
        async with aclosing(answers):
            async for answer in answers:
                yield answer


def _refused(name: str, doing: str, command: str, *, may_send: bool) -> InsideHandler:
    if may_send:
        return InsideHandler(
            f"{name} sent a {command} without an idempotency key while it {doing}: it would be sent again after a crash. Give "
            "it one that is the same at each attempt: send(command, idempotency_key=ctx.idempotency_key)"
        )
    advice = "Only `async def` handlers of events may, with an idempotency key"
    return InsideHandler(f"{name} tried to send a {command} while it {doing}. {advice}")
