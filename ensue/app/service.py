"""Registration: what a user declares, kept as data until an application opens."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, Concatenate, Literal, Never, TypeAlias, TypeVar, cast, overload

import msgspec

from ensue.app.checks import checked_options, checked_retries
from ensue.app.dependencies import Factory, factory_of, hook_of
from ensue.app.patterns import noticing
from ensue.channels import Channel
from ensue.consumers.handler import HandlerDefinition, Start, analyse
from ensue.consumers.policy import Retries
from ensue.consumers.routing import ONE_ORDER
from ensue.domain import Decided, Decider, SqlView, State, View
from ensue.domain.call import Answer
from ensue.domain.command import CommandDefinition, analyse_command, commands_of_decider, commands_of_state
from ensue.domain.middleware import MiddlewareDefinition, analyse_middleware
from ensue.domain.query import QueryDefinition, analyse_query
from ensue.domain.registered import Registered
from ensue.domain.view import ViewDefinition
from ensue.domain.views.declaring import view_definition
from ensue.domain.views.sql_view import SqlViewDefinition
from ensue.errors import DefinitionError, NotYetAvailable
from ensue.events.message import Event

__all__ = ["ONE_ORDER", "Reaction", "Service"]

Reaction: TypeAlias = Event | Iterable[Event] | None
"""What a handler may return: an event, several, or none."""

# The bound of each says which functions may be registered; the decorators give back exactly what they got.
Handler = TypeVar("Handler", bound=Callable[Concatenate[Never, ...], Reaction | Awaitable[Reaction]])
Deciding = TypeVar(
    "Deciding",
    bound=Callable[Concatenate[Never, ...], Reaction | Decided[Any] | Awaitable[Reaction | Decided[Any]]],
)
Workflow = TypeVar("Workflow", bound=Callable[Concatenate[Never, ...], Awaitable[Reaction]])
Passed = TypeVar("Passed", bound=Callable[Concatenate[Never, Never, ...], Awaitable[Answer]])
Answerer = TypeVar("Answerer", bound=Callable[Concatenate[Never, ...], object])
Timed = TypeVar("Timed", bound=Callable[..., Reaction | Awaitable[Reaction]])
Provider = TypeVar("Provider", bound=Callable[..., object])
Hook = TypeVar("Hook", bound=Callable[..., Iterator[None] | AsyncIterator[None]])
Projected = TypeVar("Projected", bound=SqlView)
V = TypeVar("V", bound=View)
St = TypeVar("St", bound=State)
D = TypeVar("D", CommandDefinition, QueryDefinition)


class Service:
    """Handlers that belong together. `app.include(service)`; a service knows nothing of the others.

    The name of a consumer is `service.function`; it is how the log knows how far the handler has come, so renaming a
    function needs `name=` with the old name.
    """

    def __init__(self, name: str, /, *, retry: Retries | None = None) -> None:
        """`retry` is the policy of handlers that say none themselves."""
        if not name or not name.replace("-", "_").isidentifier():
            raise DefinitionError(f"{name!r} is not a name for a service; use letters, digits, _ and -")
        self.name = name
        self._retry = checked_retries(name, retry)
        self._handlers: list[HandlerDefinition] = []
        self._commands: list[CommandDefinition] = []
        self._queries: list[QueryDefinition] = []
        self._views: list[ViewDefinition | SqlViewDefinition] = []
        self._middleware: list[MiddlewareDefinition] = []
        self._factories: list[Factory] = []
        self._hooks: list[Factory] = []
        self._included: list[Service] = []
        self._open_in = 0  # how many open applications it is part of

    @overload
    def on(self, handler: Handler, /) -> Handler: ...
    @overload
    def on(
        self,
        /,
        *,
        name: str | None = None,
        retry: Retries | None = None,
        timeout: timedelta | None = None,
        concurrency: int | None = None,
        key: str | None = None,
        pure: bool = False,
        start: Start | None = None,
        source: Channel | None = None,
    ) -> Callable[[Handler], Handler]: ...
    def on(self, handler: Any = None, /, **options: Any) -> Any:
        """React to the events the first parameter is annotated with; append what is returned. It may be annotated with a pattern, a
        window, or what else is said of one (`TimedOut[Unpaid]`): each match is then handled as an event is.

        The handler may be `async def`, a plain `def` (runs on a thread), or a plain `def` that takes a `Transaction`
        (runs inside the commit). It may ask for a `Context`, and for anything the application provides.

        `key` is a tag that all its events carry, by which they are ordered instead of by their own key; `ONE_ORDER`
        handles them one after another. `pure=True` promises that the handler does nothing but compute from the event: it
        then runs ahead of its predecessors' commits, several times as fast. `concurrency` bounds how many run at once
        (100 async, 8 on threads). `timeout` is for one attempt. `start` says where a new consumer begins on a log with
        history: "beginning", "now", a position or a time. `source` is a channel to handle directly, without the log, at
        least once; the first parameter may be a `list` of events then.

        Order: events of one key one after another, each after the commit of the one before. Errors: `DefinitionError`;
        `NotYetAvailable` for states and workflows, which this version only declares here.
        """
        local_names = sys._getframe(1).f_locals

        def register(function: Any) -> Any:
            if isinstance(function, type) or not callable(function):
                given = function.__name__ if isinstance(function, type) else repr(function)
                raise DefinitionError(
                    f"@on decorates a function, and its first parameter says which events it handles: write @on, without "
                    f"({given}), above def handler(event: {given})"
                )
            known = checked_options(getattr(function, "__name__", repr(function)), options)
            self._before_opening(f"the handler {getattr(function, '__name__', function)}")
            definition = analyse(function, known, local_names, prefix=self._prefix, noticing=noticing)
            if any(other.name == definition.name for other in self._handlers):
                raise DefinitionError(
                    f"two handlers are called {definition.name!r}; the name is how the log knows how far each has come: "
                    'give one of them name="…"'
                )
            self._handlers.append(definition)
            return function

        return register(handler) if handler is not None else register

    @overload
    def provide(self, factory: Provider, /) -> Provider: ...
    @overload
    def provide(self, /) -> Callable[[Provider], Provider]: ...
    def provide(self, factory: Any = None, /) -> Any:
        """Give handlers what this factory's return annotation says; made once, when the application opens.

        Sync or async; a generator's rest runs when the application stops. Errors: `DefinitionError`.
        """
        local_names = dict(sys._getframe(1).f_locals)

        def register(function: Any) -> Any:
            factory = factory_of(function, local_names)
            self._before_opening(f"the factory {factory.name}")
            self._factories.append(factory)
            return function

        return register(factory) if factory is not None else register

    def lifecycle(self, hook: Hook, /) -> Hook:
        """Run this generator around the consumers: what is before its `yield` when the application has opened the log and
        made the dependencies, what is after it when the consumers have stopped. The first registered begins first and ends
        last; it may take what is provided, by annotation. An error before the `yield` stops the start.

        Errors: `DefinitionError`.
        """
        found = hook_of(hook, sys._getframe(1).f_locals)
        self._before_opening(f"the lifecycle hook {found.name}")
        self._hooks.append(found)
        return hook

    def include(self, *services: Service | Decider[Any, Any, Any]) -> None:
        """Make these services part of this one. A service may be part of several services and applications; one that comes
        into an application by two ways is in it once. Errors: `DefinitionError` for what would include itself.
        """
        given: tuple[object, ...] = cast("tuple[object, ...]", services)
        for service in given:
            if isinstance(service, Decider):
                definition = commands_of_decider(service, sys._getframe(1).f_locals)
                self._before_opening(f"the decider {definition.name}")
                self._commands.append(definition)
                continue
            if not isinstance(service, Service):
                raise DefinitionError(f"{self.name}: include() takes services, not {service!r}")
            if self in (part for part, _ in service._walk(None, set())):
                raise DefinitionError(f"the service {self.name!r} would include itself by way of {service.name!r}")
            self._before_opening(f"the service {service.name}")
            self._included.append(service)

    @overload
    def command(self, handler: Deciding, /) -> Deciding: ...
    @overload
    def command(self, /, *, attempts: int = 10) -> Callable[[Deciding], Deciding]: ...
    def command(self, handler: Any = None, /, **options: Any) -> Any:
        """Decide a command: parameters annotated with a `State` are loaded and guard what is appended; a raised `Refusal` is the
        answer no. What the handler returns is appended and is the answer: an event, several, none, or a `Decided`.

        It may be called more than once for one command: `attempts` is how often it decides again after a conflict. Keep it free of
        effects. Errors: `DefinitionError`.
        """
        local_names = sys._getframe(1).f_locals

        def register(function: Any) -> Any:
            definition = analyse_command(function, local_names, **options)
            self._before_opening(f"the command handler {definition.name}")
            self._commands.append(definition)
            return function

        return register(handler) if handler is not None else register

    def aggregate(self, state: type[St], /) -> type[St]:
        """Decide commands by the methods of a state class: `def withdraw(self, command: Withdraw) -> Withdrawn`. Each is a command
        handler on the state it is called on; further parameters are as for `command`. Errors: `DefinitionError`.
        """
        found = commands_of_state(state, sys._getframe(1).f_locals)
        self._before_opening(f"the aggregate {state.__name__}")
        self._commands.extend(found)
        return state

    def query(self, handler: Answerer, /) -> Answerer:
        """Answer a query, from states, from rows (a `Transaction` that only reads) and from what is provided. Errors:
        `DefinitionError`."""
        definition = analyse_query(handler, sys._getframe(1).f_locals)
        self._before_opening(f"the query handler {definition.name}")
        self._queries.append(definition)
        return handler

    def middleware(self, function: Passed, /) -> Passed:
        """Every command and query of this service, and of those included in it, passes this function on its way to its handler,
        and its answer on the way back: the first registered is the outermost, and a service's own come after those of the
        services around it. It may refuse, and it sees what came of it. Further parameters are what the application provides.

        With `call: Call[Transfer]` it is for that command alone. Errors: `DefinitionError`.
        """
        definition = analyse_middleware(function, sys._getframe(1).f_locals)
        self._before_opening(f"the middleware {definition.name}")
        self._middleware.append(definition)
        return function

    @overload
    def view(self, row: type[V], /) -> type[V]: ...
    @overload
    def view(self, /, *, when: Literal["inline", "live"]) -> Callable[[type[V]], type[V]]: ...
    @overload
    def view(
        self, /, *, when: Literal["after"] = "after", database: str | None = None
    ) -> Callable[[type[V]], type[V]]: ...
    @overload
    def view(
        self, /, *, schema: str, when: Literal["inline"], version: int | None = None
    ) -> Callable[[Projected], Projected]: ...
    @overload
    def view(
        self,
        /,
        *,
        schema: str,
        when: Literal["after"] = "after",
        version: int | None = None,
        database: str | None = None,
    ) -> Callable[[Projected], Projected]: ...
    def view(self, row: Any = None, /, **options: Any) -> Any:
        """Keep a table of these rows from the log, each exactly once for each event. A changed class is built beside the table that
        is read, and read when it has caught up; see docs/views.md.

        `when` is "after": a moment after the append; "inline": in the append itself, which is refused where `evolve` raises; or
        "live": in the memory of each process. `database` is the URL of another database, where the rows are then. With `schema`
        the view is a function of an event and a `Transaction`, and changes the rows of the tables that the schema makes; raise its
        `version` instead of having changes of its code noticed. Errors: `DefinitionError`.
        """
        local_names = sys._getframe(1).f_locals

        def register(row: Any) -> Any:
            self._before_opening(f"the view {getattr(row, '__name__', row)}")
            self._views.append(view_definition(row, local_names, options))
            return row

        return register(row) if row is not None else register

    @overload
    def workflow(self, function: Workflow, /) -> Workflow: ...
    @overload
    def workflow(self, /, *, name: str | None = None, version: int = 1) -> Callable[[Workflow], Workflow]: ...
    def workflow(self, function: Any = None, /, **options: Any) -> Any:
        """Begin this function, durably, at each event of its first parameter. Not yet available."""
        raise NotYetAvailable("workflows are declared, but this version cannot run them yet")

    @overload
    def schedule(self, cron: str, /, *, timezone: str) -> Callable[[Timed], Timed]: ...
    @overload
    def schedule(self, /, *, every: timedelta) -> Callable[[Timed], Timed]: ...
    def schedule(self, cron: str | None = None, /, **options: Any) -> Any:
        """Run at times. Not yet available."""
        raise NotYetAvailable("schedules are declared, but this version cannot run them yet")

    @property
    def _prefix(self) -> str:
        return f"{self.name}."

    def _before_opening(self, what: str) -> None:
        """Errors: `DefinitionError` once it is too late, because nothing would ever come of it."""
        if self._open_in:
            raise DefinitionError(
                f"{self.name}: {what} is declared while the application is open, and would be left out: an application takes "
                "up what is declared before it is opened"
            )

    def _walk(self, retry: Retries | None, seen: set[Service]) -> Iterator[tuple[Service, Retries | None]]:
        """This service and all that are part of it, each once, in the order of inclusion; with each the retry policy that
        holds in it: its own, or that of the nearest one around it."""
        if self not in seen:
            seen.add(self)
            retry = self._retry if self._retry is not None else retry
            yield self, retry
            for service in self._included:
                yield from service._walk(retry, seen)

    def _all_handlers(self) -> list[HandlerDefinition]:
        return [
            handler if handler.retry is not None else msgspec.structs.replace(handler, retry=retry)
            for service, retry in self._walk(None, set())
            for handler in service._handlers
        ]

    def _registered(self) -> Registered:
        services = [service for service, _ in self._walk(None, set())]
        return Registered(
            commands=[_passing(services, service, one) for service in services for one in service._commands],
            queries=[_passing(services, service, one) for service in services for one in service._queries],
            views=[one for service in services for one in service._views],
        )

    def _all_factories(self) -> list[Factory]:
        return [factory for service, _ in self._walk(None, set()) for factory in service._factories]

    def _all_hooks(self) -> list[Factory]:
        return [hook for service, _ in self._walk(None, set()) for hook in service._hooks]


def _passing(services: Iterable[Service], service: Service, definition: D) -> D:
    """The definition with the middleware of all services that it is in, the outermost first. One that comes into the
    application by two ways passes what stands on either."""
    around = [one for one in services if service in (part for part, _ in one._walk(None, set()))]
    middleware = tuple(found for one in around for found in one._middleware)
    return msgspec.structs.replace(definition, middleware=middleware + definition.middleware)
