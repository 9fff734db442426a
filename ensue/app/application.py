"""`App`: a log, its services, and how they are opened, run and stopped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Generator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime, timedelta
from os import PathLike, fspath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, cast, overload

import msgspec

from ensue.app.checks import (
    check_application,
    check_carried,
    check_position,
    checked_channels,
    checked_headers,
    checked_key,
    checked_principal,
    checked_seconds,
    checked_traceparent,
    chosen_consumers,
)
from ensue.app.dead_letters import DeadLetters
from ensue.app.dependencies import Dependencies, Factory, factory_of
from ensue.app.log import LogView
from ensue.app.patterns import PatternsView, detectors_of
from ensue.app.receipt import WAIT, Receipt
from ensue.app.service import Service
from ensue.app.settings import Settings
from ensue.app.tenants import PLACE, check_tenants, checked_tenant, url_of_tenant
from ensue.app.transaction import OpenTransaction
from ensue.app.urls import open_store
from ensue.channels import Channel
from ensue.consumers.handler import HandlerDefinition, channel_consumers
from ensue.consumers.policy import Retries, Retry
from ensue.consumers.transaction import Transaction
from ensue.domain import Decider, State, View
from ensue.domain.call import Principal
from ensue.errors import DefinitionError, InvalidTenant, Unavailable
from ensue.events.message import Command, Event, Query
from ensue.events.recorded import Position, microseconds
from ensue.events.registry import Registry
from ensue.observe.log import log_signal
from ensue.observe.signals import Observer, Signal
from ensue.store.base import Store

if TYPE_CHECKING:  # what runs an application is imported when one is opened, so that `import ensue` is quick
    from ensue.app.engine import Engine
    from ensue.app.health import Health
    from ensue.app.open_tenants import Tenants
    from ensue.app.tagged import SharedStore
    from ensue.store.keys import KeyStore
    from ensue.world import World

__all__ = ["App", "Portal", "Settings", "checked_headers", "checked_traceparent"]

T = TypeVar("T")
R = TypeVar("R")
V = TypeVar("V", bound=View)
S = TypeVar("S")
St = TypeVar("St", bound=State)


class Portal(Protocol):
    """Runs a coroutine of the application from plain code and returns its result."""

    def __call__(self, work: Coroutine[Any, Any, R], /, *, timeout: timedelta | None = None) -> R:
        """Errors: the coroutine's own; `TimeoutError` after `timeout`, when it was cancelled (what it had written stays
        written); `Unavailable` when the application is closed; what broke the consumers, if something did."""
        ...


class App(Service):
    """A log and its services. `async with app:` runs its consumers until the block ends, then drains.

    Handlers registered on the app itself have their function's name; those of services `service.function`.
    """

    def __init__(
        self,
        name: str,
        /,
        *,
        url: str | None = None,
        keys: str | None = None,
        inbox: Iterable[Channel] = (),
        outbox: Iterable[Channel] = (),
        drain_seconds: float | None = None,
        payload_bytes: int | None = None,
        retry: Retries | None = None,
        tenants: Literal["tag"] | None = None,
        observe: Observer | None = None,
        archives: Iterable[str | PathLike[str]] = (),
        store: Store | None = None,
        world: World | None = None,
    ) -> None:
        """`url` is where the log is; without it `ENSUE_URL`, else `sqlite:///NAME.db` in the current folder. `keys` is where the
        keys of personal data are; without it `ENSUE_KEYS`, else beside the log. See `Settings` for the other settings. `observe` is
        called with each signal besides the logging. `inbox` are channels whose messages are stored, each once, before they are
        handled; `outbox` those on which the events that they carry are sent, after they were stored. `tenants="tag"` keeps the
        tenants of one log apart by a tag, see docs/tenants.md. `archives` are files with payloads that the log has only tombstones of: events that are in one
        are read as they were; their names may have the place of a tenant's as well. `store` and `world` are for tests and
        simulation. Errors: `DefinitionError`."""
        super().__init__(name, retry=retry)
        self._inbox, self._outbox = checked_channels(name, inbox, outbox)
        check_application(name, url, observe, keys, tenants)
        self._settings: dict[str, Any] = {
            "url": url,
            "keys": keys,
            "drain_seconds": drain_seconds,
            "payload_bytes": payload_bytes,
        }
        self._observers: list[Observer] = [log_signal, *([observe] if observe else [])]
        self._archives = tuple(archives)
        self._given_store = store
        self._given_world = world
        self._engine: Engine | None = None
        self._tenants: Tenants[App] | None = None
        self._tenant: str | None = None
        self._tagged = tenants == "tag"
        self.log = LogView(self._open_engine)
        self.patterns = PatternsView(self._open_engine)
        self.dead_letters = DeadLetters(self._open_engine)

    def in_world(
        self,
        world: World,
        store: Store,
        *,
        replace: Iterable[Callable[..., object]] = (),
        observe: Observer | None = None,
    ) -> App:
        """The same application, closed, on another store in another world, with other factories for what `replace`
        provides: for tests and simulation. With `observe` its signals go there instead of into the logging."""
        other = self._copy(store, world, self._settings, replace)
        if observe is not None:
            other._observers = [observe]
        return other

    def _copy(
        self,
        store: Store | None,
        world: World | None,
        settings: Mapping[str, Any],
        replace: Iterable[Callable[..., object]] = (),
    ) -> App:
        replaced = [factory_of(function, {}) for function in replace]
        types = {factory.provides for factory in replaced}
        other = App(
            self.name,
            retry=self._retry,
            store=store,
            world=world,
            inbox=self._inbox,
            outbox=self._outbox,
            archives=self._archives,
            tenants="tag" if self._tagged else None,
            **settings,
        )
        other._handlers = self._all_handlers()
        registered = self._registered()
        other._commands, other._queries = list(registered.commands), list(registered.queries)
        other._views = list(registered.views)
        other._factories = [factory for factory in self._all_factories() if factory.provides not in types] + replaced
        other._hooks = self._all_hooks()
        return other

    @property
    def settings(self) -> Settings:
        """The settings as they are now. Errors: `DefinitionError`."""
        return Settings.load(self.name, os.environ, **self._settings)

    @property
    def handlers(self) -> tuple[HandlerDefinition, ...]:
        """All consumers: the registered handlers, those of included services too, the patterns and windows that they handle
        (`pattern.NAME`), and the channels' `inbox.NAME` and `outbox.NAME`. Errors: `DefinitionError` for a name used twice."""
        handlers = self._all_handlers()
        handlers += detectors_of(handlers, tenants=self._tagged)
        if self._inbox or self._outbox:
            handlers += channel_consumers(self._inbox, self._outbox)
        names = [handler.name for handler in handlers]
        for name in names:
            if names.count(name) > 1:
                raise DefinitionError(
                    f"two handlers are called {name!r}; give one of them, or its service, another name"
                )
        return tuple(handlers)

    @property
    def _prefix(self) -> str:
        return ""

    # ------------------------------------------------------------------------------------------------------ opening

    async def __aenter__(self) -> Self:
        if self._has_tenants:
            self._open_tenants(consume=True)
            return self
        engine = await self._open(consume=True)
        self._body = engine.lifeline.hold()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        try:
            if self._engine is not None:
                self._engine.lifeline.let_go(self._body, error)
        finally:
            await self._close()

    @contextlib.asynccontextmanager
    async def running(self, *, only: Iterable[str] = (), without: Iterable[str] = ()) -> AsyncGenerator[Self, None]:
        """As `async with app:`, but of the consumers run here only some: by name, or by a pattern as in a shell (`billing*`).
        The others belong to the application as ever, and to processes that run them.

        Of what is provided only that is made which the chosen handlers and the lifecycle hooks need.
        Errors: `WiringError` for a name that no consumer has, and when none is left.
        """
        names = [handler.name for handler in self.handlers]
        names += [f"view.{view.name}" for view in self._registered().views]
        chosen = chosen_consumers(self.name, names, only, without)
        engine = await self._open(consume=True, chosen=chosen if len(chosen) < len(names) else None)
        try:
            with engine.lifeline.held():
                yield self
        finally:
            await self._close()

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncGenerator[Self, None]:
        """Publish, send, ask, read and wait without running any consumer here. Of what is provided only that is made which handlers
        of commands and queries need; lifecycle hooks do not begin."""
        if self._has_tenants:
            self._open_tenants(consume=False)
        else:
            await self._open(consume=False)
        try:
            yield self
        finally:
            await self._close()

    @property
    def _has_tenants(self) -> bool:
        return self._tenant is None and self._given_store is None and PLACE in self.settings.url

    def tenant(self, name: str, /, *, create: bool = False) -> AbstractAsyncContextManager[App]:
        """The application of one tenant: `async with crm.tenant("acme") as acme:`. It is opened when it is first used here, and then
        kept open. Where the URL has a place for its name, it has a log of its own, made where it is missing with `create` (on
        PostgreSQL its database or schema is there already), and its handlers run in a process whose application is open by `async
        with`. With `tenants="tag"` it sees and writes what is the tenant's in the one log, and any name is one.

        Errors: `InvalidTenant` for a name that is none, or of which there is nothing; `Unavailable` when the application is not open,
        or too many tenants are in use; those of opening.
        """
        checked_tenant(name)
        if self._tenants is None:
            if not self._has_tenants and not (self._tagged and self._tenant is None):
                raise InvalidTenant(
                    f"{self.name} has no tenants: its url= has no {PLACE} in it, as sqlite:///data/{PLACE}.db has"
                )
            raise Unavailable(
                f"the application {self.name} is not open: use `async with app:` or `async with app.connected():`"
            )
        return self._tenants.use(name, create=create)

    def of_tenant(self, name: str, /) -> App:
        """The same application, closed, on the log of one tenant: to run that one alone. Errors: `InvalidTenant`, `DefinitionError`."""
        settings = self.settings
        url = url_of_tenant(settings.url, name)
        if not self._has_tenants:
            raise InvalidTenant(f"{self.name} has no tenants: its url= has no {PLACE} in it")
        check_tenants(self.name, receives=self._receives, keys=settings.keys)
        keys = url_of_tenant(settings.keys, name) if settings.keys is not None else None
        other = self._copy(None, self._given_world, {**self._settings, "url": url, "keys": keys})
        other._observers, other._tenant = self._observers, name
        return other

    @property
    def _receives(self) -> bool:
        return bool(self._inbox) or any(handler.channel is not None for handler in self._all_handlers())

    def _one_of_them(self, name: str) -> App:
        """The application of a tenant by tag, closed."""
        assert self._engine is not None
        store = cast("SharedStore", self._engine.store).of(name)
        other = self._copy(store, self._engine.world, self._settings)
        other._observers, other._tenant, other._archives = self._observers, name, ()
        return other

    def _open_tenants(self, *, consume: bool) -> None:
        if self._tenants is not None:
            raise DefinitionError(f"the application {self.name} is open already")
        from ensue.app.open_tenants import Tenants

        self._tenants = Tenants(self.of_tenant, self.settings.url, consume=consume)
        for service, _ in self._walk(None, set()):
            service._open_in += 1

    async def _close_tenants(self, tenants: Tenants[App]) -> None:
        try:
            await tenants.close()
        finally:
            self._tenants = None
            for service, _ in self._walk(None, set()):
                service._open_in -= 1

    async def _open(self, *, consume: bool, chosen: Collection[str] | None = None) -> Engine:
        from ensue.app.engine import Engine
        from ensue.app.keys import NO_KEYS, keys_of_store, open_keys
        from ensue.store.keys import KeyRing
        from ensue.world import RealWorld

        if self._engine is not None:
            raise DefinitionError(f"the application {self.name} is open already")
        if self._has_tenants:
            raise InvalidTenant(
                f"{self.name} has a log for each tenant and none of its own: open one with tenant(name), or run one alone with "
                "of_tenant(name)"
            )
        settings = self.settings
        world, store = self._given_world or RealWorld(), self._given_store or open_store(settings.url)
        # A store that was given is a test's: its keys are beside it, wherever those of the application are.
        url = settings.url if self._given_store is None else None
        keys: KeyStore = NO_KEYS
        registered, store = self._registered(), self._with_archives(store)
        if not self._tagged:
            keys = open_keys(settings.keys) if settings.keys and url else keys_of_store(url, store)
        elif self._tenant is None:
            from ensue.app.open_tenants import Tenants
            from ensue.app.tagged import SharedStore

            check_tenants(self.name, receives=self._receives, keys=None, views=registered.views)
            store, registered = cast(Store, SharedStore(store)), msgspec.structs.replace(registered, views=())
            self._tenants = Tenants(self._one_of_them, None, consume=False)
        engine = Engine(
            self.name,
            store,
            world,
            Registry(payload_bytes=settings.payload_bytes, keys=KeyRing(keys, world)),
            self.handlers,
            Dependencies(self._with_itself(self._all_factories()), self._all_hooks()),
            registered,
            retry=self._retry if isinstance(self._retry, Retry) else Retry(),
            observe=self._observe,
            drain_seconds=settings.drain_seconds,
        )
        # Known before it is open: factories and lifecycle hooks may publish and read.
        self._take(engine)
        try:
            await engine.open(consume=consume, chosen=chosen)
        except BaseException:
            self._tenants = None
            self._take(None)
            raise
        return engine

    def _with_itself(self, factories: list[Factory]) -> list[Factory]:
        """Handlers may ask for the application, unless it provides another under its type."""
        own = Factory(self.name, App, lambda: self, ())
        return factories if any(one.provides is App for one in factories) else [*factories, own]

    def _with_archives(self, store: Store) -> Store:
        if not self._archives:
            return store
        from ensue.store.archives import open_archive
        from ensue.store.restored import with_archives

        files = [fspath(file).replace(PLACE, self._tenant or PLACE) for file in self._archives]
        return with_archives(store, lambda: [open_archive(file) for file in files])

    def _take(self, engine: Engine | None) -> None:
        self._engine = engine
        for service, _ in self._walk(None, set()):
            service._open_in += 1 if engine is not None else -1

    async def _close(self) -> None:
        if self._tenants is not None and not self._tagged:
            await self._close_tenants(self._tenants)
            return
        tenants, self._tenants = self._tenants, None
        if tenants is not None:
            await tenants.close()
        engine = self._engine
        if engine is not None:
            try:
                await engine.close()
            finally:
                self._take(None)

    def open_store(self) -> Store:
        """The open store, for tools. Errors: `Unavailable` when the application is not open."""
        return self._open_engine().store

    def _open_engine(self) -> Engine:
        if self._tenants is not None:
            raise InvalidTenant(
                f"{self.name} has tenants: say which, `async with {self.name}.tenant(name) as one:`, and ask that one"
            )
        if self._engine is None:
            raise Unavailable(
                f"the application {self.name} is not open: use `async with app:` to run its consumers here, or "
                "`async with app.connected():` to publish and read only"
            )
        return self._engine

    def _observe(self, signal: Signal) -> None:
        for observer in self._observers:
            try:
                observer(signal)
            except Exception:  # an observer looks on: its mistakes must not stop what it watches
                import logging

                logging.getLogger("ensue").exception("an observer raised on %r", signal)

    # ------------------------------------------------------------------------------------------------------ writing

    async def publish(
        self,
        *events: Event,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        traceparent: str | None = None,
    ) -> Receipt[None]:
        """Append these events and return when they are durable, atomically, contiguous, in this order.

        With `idempotency_key` a second call stores nothing and returns the first receipt, also after a crash; another
        call with the same key and other events is an error. Keys are kept as long as the log.
        Errors: `InvalidEvent`, `IdempotencyKeyReused`, `InsideHandler`; `Unavailable`, `StorageFull`, `ReadOnlyLog`
        (nothing stored); `OutcomeUnknown` (ask again with the same key).
        """
        engine = self._open_engine()
        await engine.registry.prepare(events)
        drafts = engine.drafts(events, headers=checked_headers(headers), traceparent=checked_traceparent(traceparent))
        return await engine.append(drafts, idempotency_key=checked_key(idempotency_key))

    async def publish_later(
        self, channel: Channel, /, *events: Event, at: datetime | timedelta, idempotency_key: str | None = None
    ) -> Receipt[None]:
        """Send these events on a channel of the outbox at a time, or after one; returns when that is durable. They are stored for
        sending only: handlers of this application do not see them. Late rather than early, and after a restart as well. `wait()` of
        the receipt is until they are sent. A naive time is local.

        Errors: as `publish`; `DefinitionError` for a channel that is not in the outbox, or does not carry them; `TypeError` for
        what is neither a time nor a duration.
        """
        check_carried(self.name, self._outbox, channel, events)
        given: object = cast("object", at)
        if not isinstance(given, datetime | timedelta):
            raise TypeError(
                f"at={given!r}; give a time (datetime) or how long from now: timedelta(minutes=5) or minutes(5)"
            )
        engine = self._open_engine()
        due = microseconds(at) if isinstance(at, datetime) else engine.world.now() + at // timedelta(microseconds=1)
        return await engine.append_later(channel, events, due, checked_key(idempotency_key))

    async def forget(self, tag: str, value: object, /) -> Receipt[bool]:
        """Forget a subject: `await app.forget("customer_id", "c1")`. Destroys its key, so that the personal fields of all events
        about it are `FORGOTTEN` from now on, here and in every copy of the log; then appends `SubjectForgotten`. For ever: events
        with personal data of the subject are refused afterwards (`AlreadyForgotten`).

        The receipt's `result` is whether a key was destroyed by this call: a second one returns the first receipt. Of a subject
        that nothing personal was ever stored about nothing is destroyed and nothing stored. `wait()` of the receipt is until all
        handlers of `SubjectForgotten` and all views are done. Other processes have dropped what they remember within a second.

        Half done by a crash, it is finished when an application next opens the log; or call it again. Errors: `InvalidEvent` for
        what is no tag's value; `InsideHandler`; those of the log and of the key store.
        """
        return await self._open_engine().forget(tag, value)

    async def transact(
        self, function: Callable[[Transaction], T], /, *, idempotency_key: str | None = None
    ) -> tuple[T, Receipt[None]]:
        """Run a function inside the writer's transaction: rows it writes and events it emits are stored together.

        Short and without waiting: the log's only writer runs it. What it raises undoes all of it and is raised here.
        With `idempotency_key` a second call runs nothing and returns the first result and receipt, also after a crash; the
        result must be data then, of the type the function is annotated with, or None.
        """
        return await self._open_engine().transact(function, checked_key(idempotency_key))

    def transaction(self, *, idempotency_key: str | None = None) -> AbstractAsyncContextManager[OpenTransaction]:
        """A transaction of your own, where the store is a PostgreSQL database: rows of your tables and emitted events are
        committed together at the end of the block. It may wait for other things meanwhile, and holds no lock of the log before
        its end. It is never run twice; with `idempotency_key` a second one is undone and has the first receipt.

        Errors: `MissingCapability`, `InsideHandler`, `IdempotencyKeyReused`, those of the store; of your own rows as they are.
        """
        return self._open_engine().transaction(checked_key(idempotency_key))

    async def send(
        self,
        command: Command[R],
        /,
        *,
        idempotency_key: str | None = None,
        principal: str | Principal | None = None,
        headers: Mapping[str, str] | None = None,
        traceparent: str | None = None,
    ) -> Receipt[R]:
        """Decide a command; returns when what it led to is durable. The receipt's `result` is what the handler returned: its event,
        or events, or the result of a `Decided`.

        The events are stored only if nothing has come meanwhile that the handler's states would have read; where something has,
        it decides again. With `idempotency_key` the same command has the same answer, a refusal as well, also after a crash.
        `principal` says who asks: handlers and middleware see it, and the events record its text, or its `id`, as a header.

        An `async def` handler of an event may send commands with an idempotency key, such as `ctx.idempotency_key`: their events
        then have it as their cause, and are stored once however often it is handled.

        Errors: the handler's `Refusal`, or what else it raises: nothing is stored then; `DefinitionError` for a command nobody
        decides; `Conflict` when it met others at every attempt; `IdempotencyKeyReused`, `InvalidEvent`, `InsideHandler`; those of
        the store.
        """
        headers = checked_headers(headers)
        return await self._open_engine().send(
            command,
            principal=checked_principal(principal, headers),
            idempotency_key=checked_key(idempotency_key),
            headers=headers,
            traceparent=checked_traceparent(traceparent),
        )

    async def ask(
        self,
        query: Query[R],
        /,
        *,
        after: Position | None = None,
        timeout: timedelta = WAIT,
        principal: str | Principal | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> R:
        """Answer a query. States are those of the log as it is now; rows may follow later, and with `after` those that a write
        led to are there: what keeps rows in the log's database, in any process, is done with it. Other writes may be there as well.

        Errors: `DefinitionError` for a query nobody answers; what the handler raises; with `after` `NotCaughtUp` when `timeout` is
        over, `HandlerFailed` when what keeps the rows has failed or is stopped, `WrongLog`; those of the store.
        """
        engine = self._open_engine()
        if after is not None:
            check_position(after)
            await engine.caught_up(after, checked_seconds(timeout))
        if principal is not None or headers is not None:
            headers = checked_headers(headers)
            checked_principal(principal, headers)
        answer: R = await engine.domain.ask(query, principal, headers)
        return answer

    async def stream(
        self,
        query: Query[AsyncIterator[R]],
        /,
        *,
        after: Position | None = None,
        timeout: timedelta = WAIT,
        principal: str | Principal | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[R, None]:
        """What a query answers one after another, as its handler yields it: `async for row in app.stream(query)`. The handler goes on
        when the next is asked for, and is closed when the caller stops (at once, with `contextlib.aclosing`).

        Errors: as `ask`; `Misuse` for a query that is not answered by a stream.
        """
        headers, engine = checked_headers(headers), self._open_engine()
        checked_principal(principal, headers)
        if after is not None:
            check_position(after)
            await engine.caught_up(after, checked_seconds(timeout))
        async with contextlib.aclosing(engine.domain.stream(query, principal, headers)) as answers:
            async for answer in answers:
                yield answer

    async def watch(
        self,
        query: Query[R],
        /,
        *,
        after: Position | None = None,
        timeout: timedelta = WAIT,
        principal: str | Principal | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[R, None]:
        """The present answer of a query, and then each other one, until the caller stops: `async for answer in app.watch(query)`.

        An answer comes only when it differs from the one before. No change is missed, also none that comes while the first is
        made; who reads slowly gets the newest, and not those between. What may change it is an event, for states, and what keeps
        rows in the log's database, for rows; it is asked again only then. Middleware is passed at each time.

        Errors: as `ask`, at any answer; `Unavailable` when the application is closed.
        """
        headers, engine = checked_headers(headers), self._open_engine()
        checked_principal(principal, headers)
        if after is not None:
            check_position(after)
            await engine.caught_up(after, checked_seconds(timeout))
        async with contextlib.aclosing(engine.domain.watch(query, principal, headers)) as answers:
            async for answer in answers:
                yield answer

    async def get(
        self, view: type[V], /, *key: object, after: Position | None = None, timeout: timedelta = WAIT
    ) -> V | None:
        """The row of a view with this key, or None: as it is kept now, or with `after` as soon as all that was written up to there
        is in it, but for keys that are parked.

        Errors: `NotCaughtUp` when that is not so within `timeout`, or the view is being built for the first time; `HandlerFailed`
        where an event of that write is parked, or nobody keeps the view; `WrongLog`; `DefinitionError` for a view that is not
        this application's; `TypeError` for another number of values than the key has.
        """
        engine, seconds = self._open_engine(), checked_seconds(timeout)
        views = engine.domain.views
        if after is not None:
            check_position(after)
            began = engine.world.monotonic()
            await views.caught_up(after, timeout_seconds=seconds, only=view)
            seconds = max(0.0, seconds - (engine.world.monotonic() - began))
        return await views.get(view, key, timeout_seconds=seconds)

    @overload
    async def state(
        self,
        state: type[St],
        /,
        *key: object,
        at: Position | datetime | int | None = None,
        version: int | None = None,
        **named: object,
    ) -> St: ...
    @overload
    async def state(
        self,
        state: Decider[S, Any, Any],
        /,
        *key: object,
        at: Position | datetime | int | None = None,
        version: int | None = None,
        **named: object,
    ) -> S: ...
    async def state(
        self,
        state: Any,
        /,
        *key: object,
        at: Position | datetime | int | None = None,
        version: int | None = None,
        **named: object,
    ) -> Any:
        """A state by its key, in the order of its declaration or by field, or by `Criteria`: as it is now; `at` a place as it was
        then, a write's own events included, what was recorded at a time or later not; or by `version`, as the first so many of
        its events made it. It is yours to change: that changes nothing else.

        Errors: `DefinitionError` for what is no state; `UnreadableEvent`; `NotCaughtUp` for a position that the log has not come
        to; `ValueError` for a version that the state has not come to; `TypeError` for another key; `WrongLog`; those of the store.
        """
        return await self._open_engine().domain.state(state, key, named, at, version)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a reading statement on the log's database and return its rows: for the tables your handlers keep.

        Errors: those of the database; `MissingCapability` where the store has no SQL.
        """
        return self._open_engine().query(statement, values)

    async def wait(
        self, position: Position, /, *consumers: Callable[..., object] | str, timeout: timedelta = WAIT
    ) -> None:
        """As `Receipt.wait`, by the position alone: `Position(text)` where it came from elsewhere, as over HTTP.

        Errors: as `Receipt.wait`; `WrongLog` for a position of another log.
        """
        check_position(position)
        await self._open_engine().wait(position, consumers, checked_seconds(timeout))

    # ------------------------------------------------------------------------------------------------------ running

    async def serve(self, *, ready: Callable[[], None] | None = None) -> None:
        """Run the consumers until SIGINT or SIGTERM, then drain; a second signal ends the process at once. `ready` is
        called when they run. Errors: those of opening; of a broken store while it runs; `Misuse` outside the main thread.
        """
        from ensue.app.serving import told_to_stop

        with told_to_stop() as stop:
            async with self:
                if ready is not None:
                    ready()
                await stop.wait()

    def run(self) -> None:
        """Run until SIGINT or SIGTERM, then drain: what `ensue run` does."""
        import asyncio

        asyncio.run(self.serve())

    async def health(self) -> Health:
        """Whether this process is alive and ready, and what was found: what `ensue run --health` answers. It reads a few rows
        and raises nothing of the store's. While a handler holds the loop there is no answer, which is one, too."""
        from ensue.app.health import Health, HealthPart

        if self._engine is None:
            return Health(parts=(HealthPart(name="application", ok=False, said="is not open"),))
        return await self._engine.health()

    def lifespan(self, asgi: object = None, /) -> AbstractAsyncContextManager[None]:
        """For ASGI frameworks: `FastAPI(lifespan=shop.lifespan)` runs the consumers as long as the web application."""

        @contextlib.asynccontextmanager
        async def run() -> AsyncGenerator[None, None]:
            async with self:
                yield

        return run()

    def blocking(self, *, consume: bool = True) -> AbstractContextManager[Portal]:
        """For plain synchronous programs: `with shop.blocking() as call: call(shop.publish(event))`.

        The application runs on a loop in a thread of its own; `call` may be used from any thread and blocks. With
        `consume=False` no consumer runs here. Errors when the block ends: what broke the consumers, if something did.
        """
        return self._blocking(consume=consume)

    @contextlib.contextmanager
    def _blocking(self, *, consume: bool) -> Generator[Portal, None, None]:
        from ensue.app.serving import Caller
        from ensue.world import LoopThread

        thread = LoopThread(f"{self.name} loop")
        try:
            engine = thread.call(self._open(consume=consume))
            try:
                yield Caller(thread, self.name, lambda: self._engine)
            finally:
                thread.call(self._close())
            engine.lifeline.check()
        finally:
            thread.close()
