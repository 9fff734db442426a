"""`App`: a log, its services, and how they are opened, run and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import msgspec

from ensue.app.dead_letters import DeadLetters
from ensue.app.dependencies import Dependencies, factory_of
from ensue.app.engine import Engine
from ensue.app.log import LogView
from ensue.app.receipt import Receipt
from ensue.app.service import Service
from ensue.app.urls import open_store
from ensue.channels import Channel
from ensue.consumers.handler import HandlerDefinition
from ensue.consumers.policy import Retries, Retry
from ensue.consumers.transaction import Transaction
from ensue.domain import View
from ensue.errors import DefinitionError, InvalidEvent, NotYetAvailable, Unavailable
from ensue.events.message import Command, Event, Query
from ensue.events.recorded import Position
from ensue.events.registry import Registry
from ensue.observe.log import log_signal
from ensue.observe.signals import Observer, Signal
from ensue.store.base import Store
from ensue.world import LoopThread, RealWorld, World

__all__ = ["App", "Portal", "Settings"]

T = TypeVar("T")
R = TypeVar("R")
V = TypeVar("V", bound=View)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an application is set to: from code, else from the environment, else these defaults.

    `ENSUE_URL`, `ENSUE_DRAIN_SECONDS`, `ENSUE_PAYLOAD_BYTES`. Code wins over the environment only for what it says.
    """

    url: str
    drain_seconds: float = 30.0
    """How long handlers may finish when the application stops."""
    payload_bytes: int = 1024 * 1024
    """The largest payload of an event."""

    @classmethod
    def load(cls, url: str | None, name: str, environment: Mapping[str, str]) -> Settings:
        """Errors: `DefinitionError` for a number that is none."""

        def number(variable: str, default: float) -> float:
            text = environment.get(variable, "")
            try:
                value = float(text) if text else default
            except ValueError:
                value = -1.0
            if not 0 <= value < 1e12:
                raise DefinitionError(f"{variable}={text!r} is not a number of at least 0")
            return value

        return cls(
            url=url or environment.get("ENSUE_URL") or f"sqlite:///{name}.db",
            drain_seconds=number("ENSUE_DRAIN_SECONDS", 30.0),
            payload_bytes=int(number("ENSUE_PAYLOAD_BYTES", 1024 * 1024)),
        )


class Portal(Protocol):
    """Runs a coroutine of the application from plain code and returns its result."""

    def __call__(self, work: Coroutine[Any, Any, R], /, *, timeout: timedelta | None = None) -> R: ...


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
        inbox: Iterable[Channel] = (),
        outbox: Iterable[Channel] = (),
        retry: Retries | None = None,
        observe: Observer | None = None,
        store: Store | None = None,
        world: World | None = None,
    ) -> None:
        """`url` is where the log is; without it `ENSUE_URL`, else `sqlite:///NAME.db` in the current folder. `observe` is
        called with each signal besides the logging. `inbox` and `outbox` are channels whose messages are stored before
        they are handled, and sent after they are stored (not yet available). `store` and `world` are for tests and
        simulation. Errors: `DefinitionError`, `NotYetAvailable`."""
        super().__init__(name, retry=retry)
        channels = (*inbox, *outbox)
        if channels:
            raise NotYetAvailable(f"{name}: channels are declared, but this version cannot use {channels[0]!r} yet")
        self._url = url
        self._observers: list[Observer] = [log_signal, *([observe] if observe else [])]
        self._given_store = store
        self._given_world = world
        self._engine: Engine | None = None
        self.log = LogView(self._open_engine)
        self.dead_letters = DeadLetters(self._open_engine)

    def in_world(self, world: World, store: Store, *, replace: Iterable[Callable[..., object]] = ()) -> App:
        """The same application, closed, on another store in another world, with other factories for what `replace`
        provides: for tests and simulation."""
        replaced = [factory_of(function, {}) for function in replace]
        types = {factory.provides for factory in replaced}
        other = App(self.name, url=self._url, retry=self._retry, store=store, world=world)
        other._handlers = list(self.handlers)
        other._factories = [factory for factory in self._all_factories() if factory.provides not in types] + replaced
        return other

    @property
    def settings(self) -> Settings:
        """The settings as they are now. Errors: `DefinitionError`."""
        return Settings.load(self._url, self.name, os.environ)

    @property
    def handlers(self) -> tuple[HandlerDefinition, ...]:
        """All registered handlers, those of included services too. Errors: `DefinitionError` for a name used twice."""
        handlers = self._all_handlers()
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
        await self._open(consume=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self._close()

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncGenerator[Self, None]:
        """Publish, read and wait without running any consumer here."""
        await self._open(consume=False)
        try:
            yield self
        finally:
            await self._close()

    async def _open(self, *, consume: bool) -> None:
        if self._engine is not None:
            raise DefinitionError(f"the application {self.name} is open already")
        settings = self.settings
        default = self._retry if isinstance(self._retry, Retry) else Retry()
        engine = Engine(
            self._given_store or open_store(settings.url),
            self._given_world or RealWorld(),
            Registry(payload_bytes=settings.payload_bytes),
            self.handlers,
            Dependencies(self._all_factories()),
            retry=default,
            observe=self._observe,
            drain_seconds=settings.drain_seconds,
        )
        self._engine = engine
        try:
            await engine.open(consume=consume)
        except BaseException:
            self._engine = None
            raise

    async def _close(self) -> None:
        engine = self._engine
        if engine is not None:
            try:
                await engine.close()
            finally:
                self._engine = None

    def open_store(self) -> Store:
        """The open store, for tools. Errors: `Unavailable` when the application is not open."""
        return self._open_engine().store

    def _open_engine(self) -> Engine:
        if self._engine is None:
            raise Unavailable(
                f"the application {self.name} is not open: use `async with {self.name}:` to run its consumers, or "
                f"`async with {self.name}.connected():` to publish and read only"
            )
        return self._engine

    def _observe(self, signal: Signal) -> None:
        for observer in self._observers:
            observer(signal)

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
        drafts = engine.drafts(events, headers=checked_headers(headers), traceparent=checked_traceparent(traceparent))
        return await engine.append(drafts, idempotency_key=idempotency_key)

    async def transact(
        self, function: Callable[[Transaction], T], /, *, idempotency_key: str | None = None
    ) -> tuple[T, Receipt[None]]:
        """Run a function inside the writer's transaction: rows it writes and events it emits are stored together.

        Short and without waiting: the log's only writer runs it. What it raises undoes all of it and is raised here.
        """
        return await self._open_engine().transact(function, idempotency_key)

    async def send(self, command: Command[R], /, *, idempotency_key: str | None = None) -> Receipt[R]:
        """Decide a command; the receipt's `result` is what it led to. A `Refusal` is raised here. Not yet available."""
        raise NotYetAvailable("commands are declared, but this version cannot decide them yet")

    async def ask(self, query: Query[R], /, *, after: Position | None = None) -> R:
        """Answer a query, once the views it reads have come to `after`. Not yet available."""
        raise NotYetAvailable("queries are declared, but this version cannot answer them yet")

    async def get(self, view: type[V], /, *key: str, after: Position | None = None) -> V | None:
        """A row of a view by its key, once the view has come to `after`. Not yet available."""
        raise NotYetAvailable("views are declared, but this version cannot keep them yet")

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a reading statement on the log's database and return its rows: for the tables your handlers keep.

        Errors: those of the database; `MissingCapability` where the store has no SQL.
        """
        return self._open_engine().query(statement, values)

    # ------------------------------------------------------------------------------------------------------ running

    async def serve(self, *, ready: Callable[[], None] | None = None) -> None:
        """Run the consumers until SIGINT or SIGTERM, then drain. Errors of a broken store are raised."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        try:
            async with self:
                if ready is not None:
                    ready()
                await self._until(stop)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def _until(self, stop: asyncio.Event) -> None:
        engine = self._open_engine()
        assert engine.node is not None
        waiting = engine.world.spawn(stop.wait(), name="stop")
        tasks = {waiting, *engine.node.tasks}
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done - {waiting}:
            task.result()

    def run(self) -> None:
        """Run until SIGINT or SIGTERM, then drain: what `ensue run` does."""
        asyncio.run(self.serve())

    def lifespan(self, asgi: object = None, /) -> AbstractAsyncContextManager[None]:
        """For ASGI frameworks: `FastAPI(lifespan=shop.lifespan)` runs the consumers as long as the web application."""

        @contextlib.asynccontextmanager
        async def run() -> AsyncGenerator[None, None]:
            async with self:
                yield

        return run()

    def blocking(self, *, consume: bool = True) -> AbstractContextManager[Portal]:
        """For plain synchronous programs: `with shop.blocking() as call: call(shop.publish(event))`.

        The application runs on a loop in a thread of its own; `call` may be used from any thread and blocks.
        """
        return self._blocking(consume=consume)

    @contextlib.contextmanager
    def _blocking(self, *, consume: bool) -> Generator[Portal, None, None]:
        thread = LoopThread(f"{self.name} loop")

        def call(work: Coroutine[Any, Any, R], /, *, timeout: timedelta | None = None) -> R:
            return thread.call(work, timeout_seconds=timeout.total_seconds() if timeout is not None else None)

        try:
            call(self._open(consume=consume))
            try:
                yield call
            finally:
                call(self._close())
        finally:
            thread.close()


HEADERS, HEADER_CHARACTERS = 64, 4096


def checked_headers(headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Errors: `InvalidEvent`."""
    if not headers:
        return None
    texts: list[object] = [*headers.keys(), *headers.values()]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidEvent("headers are texts by name")
    size = sum(len(name) + len(value) for name, value in headers.items())
    if len(headers) > HEADERS or size > HEADER_CHARACTERS:
        raise InvalidEvent(
            f"{len(headers)} headers with {size} characters; the limits are {HEADERS} headers and {HEADER_CHARACTERS} characters"
        )
    return dict(headers)


def checked_traceparent(traceparent: str | None) -> str | None:
    """A W3C trace context parent. Errors: `InvalidEvent`."""
    if traceparent is None:
        return None
    parts = traceparent.split("-")
    lengths = [len(part) for part in parts[:4]]
    if lengths != [2, 32, 16, 2] or any(set(part) - set("0123456789abcdef") for part in parts[:4]):
        raise InvalidEvent(f"{traceparent!r} is not a W3C traceparent, such as 00-<32 hex digits>-<16 hex digits>-01")
    return traceparent
