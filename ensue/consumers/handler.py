"""What a handler's signature says: which events it reacts to, what it wants to be given, how it is run.

Everything that is wrong with a handler is found here, when it is registered, and not when its first event comes.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec

from ensue.channels import Channel
from ensue.consumers.policy import Retries
from ensue.consumers.routing import ONE_ORDER
from ensue.consumers.transaction import Transaction
from ensue.errors import DefinitionError, NotYetAvailable
from ensue.events.context import Context
from ensue.events.message import Event
from ensue.events.recorded import Position, Recorded
from ensue.events.registry import Registry, declaration

__all__ = [
    "Declared",
    "HandlerDefinition",
    "HandlerOptions",
    "Noticed",
    "Noticing",
    "Parameter",
    "Role",
    "Start",
    "Wants",
    "analyse",
    "channel_consumers",
    "emitted",
    "hints_of",
    "parameter_of",
    "reacted_to",
]

Start: TypeAlias = Literal["beginning", "now"] | Position | datetime

ASYNC_CONCURRENCY, THREAD_CONCURRENCY = 100, 8
OUTBOX_CONCURRENCY = 512


class Declared:
    """What a handler's annotations may name though it is no event: `analyse` refuses the handler, except where it is what the handler
    reacts to and is noticed in events."""

    __slots__ = ()
    __ensue_declared__: ClassVar[str]
    """What it is, for the message."""


class Noticed(msgspec.Struct, frozen=True):
    """What is noticed in events, such as the match of a pattern, and handled like one: it is stored as an event of the type `event`,
    from which `read` makes again what the handler is given. `source` is the pattern or window, or the late event's type; `kind` says
    which of the things that are noticed of it."""

    source: type
    kind: str
    event: type[Event]
    read: Callable[[Any, Registry], object]


Noticing: TypeAlias = Callable[[Any], Noticed | None]
"""What a handler's annotation stands for, if it is something that is noticed in events."""


class Wants(Enum):
    """What a parameter is given."""

    EVENT = "event"
    RECORDED = "recorded"
    CONTEXT = "context"
    TRANSACTION = "transaction"
    DEPENDENCY = "dependency"


class Role(Enum):
    """Where a consumer's events come from, and what becomes of them."""

    LOG = "log"
    """Events of the log, to the application's function."""
    OUTBOX = "outbox"
    """Events of the log, to a channel."""
    INBOX = "inbox"
    """A channel, to the log."""
    DIRECT = "direct"
    """A channel, to the application's function."""
    DETECTOR = "detector"
    """Events of the log, to what looks for something in them."""


class Parameter(msgspec.Struct, frozen=True):
    """One parameter after the event. `wanted` is its annotation, `default` what it has if nothing is provided."""

    name: str
    wants: Wants
    wanted: Any = None
    default: Any = inspect.Parameter.empty


class HandlerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What was said beside the function."""

    name: str | None = None
    retry: Retries | None = None
    timeout: timedelta | None = None
    concurrency: int | None = None
    key: str | None = None
    pure: bool = False
    start: Start | None = None
    source: Channel | None = None


class HandlerDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A handler as it was registered. `events` and `emits` are the annotated types, without their subclasses."""

    name: str
    function: Callable[..., Any]
    events: tuple[type[Event], ...]
    recorded: bool
    parameters: tuple[Parameter, ...]
    emits: tuple[type[Event], ...]
    is_async: bool
    inside: bool
    pure: bool
    key: str | None
    retry: Retries | None
    timeout: timedelta | None
    concurrency: int
    start: Start | None
    role: Role = Role.LOG
    channel: Channel | None = None
    batch: bool = False
    """The function takes a list of events."""
    noticed: tuple[Noticed, ...] = ()
    """What among `events` is to be read as something else before the function is given it."""
    sought: object = None
    """Of a detector: what it looks for."""


def channel_consumers(inbox: Iterable[Channel], outbox: Iterable[Channel]) -> list[HandlerDefinition]:
    """The consumers that an application's channels are: `inbox.NAME` and `outbox.NAME`."""
    found = [_consumer(Role.INBOX, channel) for channel in inbox]
    return found + [_consumer(Role.OUTBOX, channel) for channel in outbox]


def _consumer(role: Role, channel: Channel) -> HandlerDefinition:
    def of_channel() -> None:
        """Stands for the channel where a handler stands for a consumer."""

    sends = role is Role.OUTBOX
    return HandlerDefinition(
        name=f"{role.value}.{channel.name}",
        function=of_channel,
        events=channel.carried_events if sends else (),
        recorded=False,
        parameters=(),
        emits=() if sends else channel.carried_events,
        is_async=sends,
        inside=False,
        pure=not sends,
        key=None,
        retry=None,
        timeout=None,
        concurrency=OUTBOX_CONCURRENCY,
        start=channel.start if sends else "beginning",
        role=role,
        channel=channel,
    )


def _nothing_noticed(_hint: Any) -> None:
    return None


def analyse(
    function: Callable[..., Any],
    options: HandlerOptions,
    local_names: Mapping[str, Any],
    *,
    prefix: str = "",
    noticing: Noticing = _nothing_noticed,
) -> HandlerDefinition:
    """The definition of a handler. Errors: `DefinitionError`, naming the function and what to write instead;
    `NotYetAvailable` for what is declared and not built."""
    name = getattr(function, "__name__", repr(function))
    hints = hints_of(function, local_names)
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        raise DefinitionError(f"{name}: a handler takes the event it reacts to: def {name}(event: OrderPlaced)")
    first = parameters[0]
    hint, batch = _several(hints.get(first.name))
    hint, noticed = _noticed(hint, noticing)
    _refuse_declared(name, {**hints, first.name: hint})
    events, recorded = reacted_to(name, first.name, hint)
    rest = tuple(parameter_of(name, parameter, hints) for parameter in parameters[1:])
    is_async = inspect.iscoroutinefunction(function)
    inside = any(parameter.wants is Wants.TRANSACTION for parameter in rest)
    if inspect.isasyncgenfunction(function):
        raise DefinitionError(f"{name}: an async generator cannot be a handler; return a list of events")
    if inside and is_async:
        raise DefinitionError(
            f"{name}: `async def` cannot take a Transaction: the log's only writer would wait for your network. Write "
            "`def`, or split what calls the outside from what writes rows"
        )
    if options.pure and (is_async or inside or any(p.wants is Wants.DEPENDENCY for p in rest)):
        raise DefinitionError(
            f"{name}: pure=True is for a plain `def` that takes the event and returns events, no more"
        )
    concurrency = options.concurrency or (ASYNC_CONCURRENCY if is_async else THREAD_CONCURRENCY)
    if concurrency < 1:
        raise DefinitionError(f"{name}: concurrency={options.concurrency}; at least one must run")
    if options.timeout is not None and (options.timeout <= timedelta() or inside or options.pure):
        raise DefinitionError(f"{name}: timeout= is a positive duration, for handlers that run outside the transaction")
    _check_key(name, events, options.key)
    if noticed and options.source is not None:
        raise DefinitionError(
            f"{name}: {options.source.name} is handled without the log, and a pattern or window is found in the log: put the channel "
            f"into the application's inbox, App(inbox=[{options.source.name}]), and leave source= out"
        )
    _check_source(name, events, options.source, recorded=recorded, inside=inside, batch=batch)
    return HandlerDefinition(
        name=prefix + (options.name or name),
        function=function,
        events=events,
        recorded=recorded,
        parameters=rest,
        emits=emitted(hints.get("return")),
        is_async=is_async,
        inside=inside,
        pure=options.pure,
        key=options.key,
        retry=options.retry,
        timeout=options.timeout,
        concurrency=concurrency,
        start=options.start,
        role=Role.LOG if options.source is None else Role.DIRECT,
        channel=options.source,
        batch=batch,
        noticed=noticed,
    )


def _noticed(hint: Any, noticing: Noticing) -> tuple[Any, tuple[Noticed, ...]]:
    """The annotation with the events as which what is noticed is stored, and what that is."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    named = typing.get_args(hint) if union else (hint,)
    found = [noticing(one) for one in named]
    if not any(found):
        return hint, ()
    stored = [one if known is None else known.event for one, known in zip(named, found, strict=True)]
    return functools.reduce(operator.or_, stored), tuple(one for one in found if one is not None)


def _several(hint: Any) -> tuple[Any, bool]:
    """What stands in `list[…]` or `Sequence[…]`, for a handler of batches."""
    if typing.get_origin(hint) in (list, collections.abc.Sequence):
        (inner,) = typing.get_args(hint)
        return inner, True
    return hint, False


def _check_source(
    name: str, events: tuple[type[Event], ...], source: Channel | None, *, recorded: bool, inside: bool, batch: bool
) -> None:
    if source is None:
        if batch:
            raise DefinitionError(
                f"{name}: a list of events is for what comes by a channel: @on(source=…). From the log each event comes alone, "
                "and many are committed together"
            )
        return
    if recorded or inside:
        wanted = "Recorded" if recorded else "Transaction"
        raise DefinitionError(
            f"{name}: source={source.name} is handled without the log, so there is no {wanted}; put the channel into the "
            "application's inbox instead, and leave source= out"
        )
    missing = [event.__name__ for event in events if not issubclass(event, source.carried_events)]
    if missing:
        raise DefinitionError(
            f"{name}: the channel {source.name} does not carry {', '.join(missing)}; it carries "
            f"{', '.join(message.__name__ for message in source.carries)}"
        )


_NOTICED = ("patterns", "windows", "joins")


def _refuse_declared(name: str, hints: Mapping[str, Any]) -> None:
    for parameter, hint in hints.items():
        for kind in _named(hint):
            if isinstance(kind, type) and issubclass(kind, Declared) and parameter != "return":
                if kind.__ensue_declared__ in _NOTICED:
                    raise DefinitionError(
                        f"{name}: {parameter!r} is a {kind.__name__}; {kind.__ensue_declared__} are handled as events are: what a handler "
                        f"reacts to is its first parameter, def {name}(found: {kind.__name__})"
                    )
                raise NotYetAvailable(
                    f"{name}: {parameter!r} is a {kind.__name__}; {kind.__ensue_declared__} are declared, but this version "
                    "cannot run them yet"
                )


def _named(hint: Any) -> Iterator[Any]:
    """What an annotation names, also within unions and brackets."""
    yield typing.get_origin(hint) or hint
    for inner in typing.get_args(hint):
        yield from _named(inner)


def hints_of(function: Callable[..., Any], local_names: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved annotations, also of functions declared inside others. Errors: `DefinitionError`."""
    try:
        return typing.get_type_hints(function, localns=dict(local_names), include_extras=True)
    except NameError as error:
        name = getattr(function, "__name__", repr(function))
        raise DefinitionError(f"{name}: its annotations name something that is not imported: {error}") from error


def reacted_to(name: str, parameter: str, hint: Any) -> tuple[tuple[type[Event], ...], bool]:
    """The events that a parameter is annotated with, and whether as `Recorded`. Errors: `DefinitionError`."""
    if hint is None:
        raise DefinitionError(f"{name}: annotate {parameter!r} with the event it reacts to: {parameter}: OrderPlaced")
    recorded = typing.get_origin(hint) is Recorded
    if recorded:
        (hint,) = typing.get_args(hint)
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    found = typing.get_args(hint) if union else (hint,)
    for event in found:
        if not (isinstance(event, type) and issubclass(event, Event)):
            shown = getattr(event, "__name__", repr(event))
            raise DefinitionError(
                f"{name}: the first parameter, {parameter!r}, is annotated {shown}, which is not an Event"
            )
    return tuple(found), recorded


def emitted(hint: Any) -> tuple[type[Event], ...]:
    """The event types that a return annotation names, however deep: a process may have to read what another emitted."""
    if isinstance(hint, type) and issubclass(hint, Event):
        return (hint,)
    return tuple(dict.fromkeys(event for inner in typing.get_args(hint) for event in emitted(inner)))


def parameter_of(name: str, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Parameter:
    """What a parameter beside the first asks for. Errors: `DefinitionError`."""
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        raise DefinitionError(f"{name}: a handler cannot take *{parameter.name}: say by annotations what it needs")
    hint = hints.get(parameter.name)
    if hint is Context:
        return Parameter(parameter.name, Wants.CONTEXT)
    if hint is Transaction:
        return Parameter(parameter.name, Wants.TRANSACTION)
    if hint is None and parameter.default is inspect.Parameter.empty:
        raise DefinitionError(f"{name}: annotate {parameter.name!r}, so that it is known what to give it")
    return Parameter(parameter.name, Wants.DEPENDENCY, hint, parameter.default)


def _check_key(name: str, events: tuple[type[Event], ...], key: str | None) -> None:
    if key is None or key == ONE_ORDER:
        return
    for event in events:
        declared = declaration(event)
        tags = [tag for _, tag in ((declared.key,) if declared.key else ()) + declared.tags]
        if tags.count(key) != 1:
            known = ", ".join(dict.fromkeys(tags)) or "none"
            raise DefinitionError(
                f"{name}: key={key!r} must be one tag of every event it handles; the tags of {declared.name} are: {known}"
            )
