"""What a caller gave, checked where no type checker has: each says what was given and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from ensue.channels import Channel
from ensue.consumers.handler import HandlerOptions
from ensue.consumers.policy import Retries, Retry
from ensue.domain.call import PRINCIPAL
from ensue.errors import DefinitionError, InvalidEvent, WiringError
from ensue.events.message import Command, Event
from ensue.events.recorded import Position, UnknownEvent

__all__ = [
    "article",
    "check_application",
    "check_carried",
    "check_event",
    "check_position",
    "check_types",
    "checked_channels",
    "checked_headers",
    "checked_key",
    "checked_options",
    "checked_principal",
    "checked_retries",
    "checked_seconds",
    "checked_traceparent",
    "chosen_consumers",
]

HEADERS, HEADER_CHARACTERS = 64, 4096


def article(word: str) -> str:
    """The word with the article that it takes."""
    return f"{'an' if word[:1].lower() in 'aeio' else 'a'} {word}"


# ---------------------------------------------------------------------------------------------------------- declaring


def check_application(name: str, url: object, observe: object, keys: object, tenants: object) -> None:
    """Errors: `DefinitionError`."""
    if tenants not in (None, "tag"):
        raise DefinitionError(f'{name}: tenants={tenants!r}; it is "tag", or the URL has {{tenant}} in it')
    if not isinstance(keys, str | None):
        raise DefinitionError(f"{name}: keys={keys!r}; give a text, such as sqlite:///shop.keys")
    if not isinstance(url, str | None):
        raise DefinitionError(f"{name}: url={url!r}; give a text, such as sqlite:///shop.db")
    if observe is not None and not callable(observe):
        raise DefinitionError(f"{name}: observe={observe!r}; give a function that is called with each signal")


def checked_channels(
    name: str, inbox: Iterable[Any], outbox: Iterable[Any]
) -> tuple[tuple[Channel, ...], tuple[Channel, ...]]:
    """Errors: `DefinitionError`."""
    for word, given in (("inbox", inbox), ("outbox", outbox)):
        if isinstance(given, Channel | str):
            raise DefinitionError(f"{name}: {word}= takes a list of channels, not {given!r}: {word}=[orders]")
    both = (tuple(inbox), tuple(outbox))
    for word, channels in zip(("inbox", "outbox"), both, strict=True):
        for channel in channels:
            if not isinstance(channel, Channel):
                raise DefinitionError(f"{name}: {word}= takes channels, not {channel!r}: {word}=[orders]")
            if not channel.carried_events:
                raise DefinitionError(
                    f"{name}: the channel {channel.name} carries no events, so {word}= has nothing of it"
                )
        names = [channel.name for channel in channels]
        twice = next((one for one in names if names.count(one) > 1), None)
        if twice is not None:
            raise DefinitionError(f"{name}: two channels of {word}= are called {twice!r}")
    return both


def check_carried(name: str, outbox: tuple[Channel, ...], channel: object, events: Iterable[Event]) -> None:
    """Errors: `DefinitionError`, `InvalidEvent`."""
    if channel not in outbox:
        known = ", ".join(one.name for one in outbox) or "none"
        raise DefinitionError(f"{name}: {channel!r} is not in the outbox, so nothing is sent on it; there is: {known}")
    assert isinstance(channel, Channel)
    for event in events:
        check_event(event)
        if not isinstance(event, channel.carried_events):
            raise DefinitionError(f"{name}: the channel {channel.name} does not carry {type(event).__name__}")


def checked_retries(whose: str, retry: Any) -> Retries | None:
    """Errors: `DefinitionError`."""
    if retry is None or isinstance(retry, Retry):
        return retry
    if isinstance(retry, Mapping):
        wrong = [kind for kind in retry if not (isinstance(kind, type) and issubclass(kind, Exception))]
        wrong += [policy for policy in retry.values() if not isinstance(policy, Retry)]
        if not wrong:
            found: Mapping[type[Exception], Retry] = retry
            return found
        retry = wrong[0]
    raise DefinitionError(
        f"{whose}: retry= has {retry!r} in it; give a policy, Retry(attempts=5), or one by type of exception, "
        "{ConnectionError: Retry(attempts=5)}"
    )


def checked_options(function: str, options: Mapping[str, Any]) -> HandlerOptions:
    """What stands in `@on(…)`. Errors: `DefinitionError`."""
    known = HandlerOptions.__struct_fields__
    for name in options:
        if name not in known:
            raise DefinitionError(f"{function}: @on has no option {name!r}; its options are: {', '.join(known)}")
    checked_retries(function, options.get("retry"))
    timeout, concurrency, start = (options.get(name) for name in ("timeout", "concurrency", "start"))
    if not isinstance(timeout, timedelta | None):
        raise DefinitionError(f"{function}: timeout={timeout!r}; give a duration, timedelta(seconds=5) or seconds(5)")
    if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
        raise DefinitionError(f"{function}: concurrency={concurrency!r}; at least one must run")
    if start not in (None, "beginning", "now") and not isinstance(start, Position | datetime):
        raise DefinitionError(
            f'{function}: start={start!r}; a consumer begins at "beginning", "now", a position or a time'
        )
    source = options.get("source")
    if not isinstance(source, Channel | None):
        raise DefinitionError(f"{function}: source={source!r}; give a channel, Channel('orders', OrderPlaced)")
    return HandlerOptions(**options)


# ------------------------------------------------------------------------------------------------------------- opening


def chosen_consumers(
    application: str, names: Sequence[str], only: Iterable[str], without: Iterable[str]
) -> frozenset[str]:
    """The consumers that a process runs: those of `only` (all of them, if it names none) but for those of `without`. Each is a
    name or a pattern as in a shell. Errors: `WiringError` for what fits no consumer, and when none is left."""
    chosen = set(names)
    for said, patterns in (("only", only), ("except", without)):
        if isinstance(patterns, str):
            raise WiringError(f"{application}: {said} is {patterns!r}; give a list of names")
        found: set[str] = set()
        patterns = tuple(patterns)
        for pattern in patterns:
            fitting = {name for name in names if fnmatchcase(name, pattern)}
            if not fitting:
                raise WiringError(
                    f"{application}: {said} names {pattern!r}, and no consumer is called so; there are: "
                    f"{', '.join(names) or 'none'}"
                )
            found |= fitting
        if said == "except":
            chosen -= found
        elif patterns:
            chosen &= found
    if names and not chosen:
        raise WiringError(f"{application}: none of its consumers is left to run here; there are: {', '.join(names)}")
    return frozenset(chosen)


# ---------------------------------------------------------------------------------------------------------- publishing


def check_event(event: object) -> None:
    """Errors: `InvalidEvent`."""
    if isinstance(event, UnknownEvent):
        raise InvalidEvent(
            f"an UnknownEvent stands for {article(event.type_name)} that this application cannot read; to write it again, "
            "give log.append the Recorded it came in"
        )
    if isinstance(event, Event):
        return
    if isinstance(event, type):
        raise InvalidEvent(f"{event.__name__} is a class; publish an instance of it: {event.__name__}(…)")
    if isinstance(event, list | tuple):
        raise InvalidEvent(f"events are given one by one, not as a {type(event).__name__}: publish(*events)")
    advice = "; commands are for send()" if isinstance(event, Command) else ""
    raise InvalidEvent(f"{event!r} is not an event, but {article(type(event).__name__)}{advice}")


def check_types(types: Sequence[object]) -> None:
    """Errors: `InvalidEvent`."""
    for event in types:
        if not (isinstance(event, type) and issubclass(event, Event)):
            raise InvalidEvent(f"{event!r} is not an event type; give classes, such as OrderPlaced")


def checked_key(key: object) -> str | None:
    """An idempotency key. Errors: `InvalidEvent`."""
    if key is None or (isinstance(key, str) and key):
        return key
    raise InvalidEvent(
        f"idempotency_key={key!r}; it is a text that is the same for each repetition of a write, and another for each write"
    )


def checked_headers(headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Errors: `InvalidEvent`."""
    if not headers:
        return None
    texts: list[object] = [*headers.keys(), *headers.values()]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidEvent("headers are texts by name, as {'tenant': 'eu'}")
    size = sum(len(name) + len(value) for name, value in headers.items())
    if len(headers) > HEADERS or size > HEADER_CHARACTERS:
        raise InvalidEvent(
            f"{len(headers)} headers with {size} characters; the limits are {HEADERS} headers and {HEADER_CHARACTERS} characters"
        )
    return dict(headers)


def checked_principal(principal: object, headers: Mapping[str, str] | None) -> object:
    """Who asks. Errors: `InvalidEvent`."""
    if headers and PRINCIPAL in headers:
        raise InvalidEvent(f"the header {PRINCIPAL!r} says who asks; give it as principal=")
    id = principal if principal is None or isinstance(principal, str) else getattr(principal, "id", None)
    if principal is not None and not (isinstance(id, str) and 0 < len(id) <= HEADER_CHARACTERS):
        raise InvalidEvent(
            f"principal={principal!r}; give a text that says who asks, or an object of yours whose `id` is such a text"
        )
    return principal


def checked_traceparent(traceparent: str | None) -> str | None:
    """A W3C trace context parent. Errors: `InvalidEvent`."""
    if traceparent is None:
        return None
    parts = traceparent.split("-")
    lengths = [len(part) for part in parts[:4]]
    if lengths != [2, 32, 16, 2] or any(set(part) - set("0123456789abcdef") for part in parts[:4]):
        raise InvalidEvent(f"{traceparent!r} is not a W3C traceparent, such as 00-<32 hex digits>-<16 hex digits>-01")
    if not parts[1].strip("0") or not parts[2].strip("0"):
        raise InvalidEvent(f"{traceparent!r} is not a W3C traceparent: its trace id or parent id is all zeros")
    return traceparent


# ------------------------------------------------------------------------------------------------------------- waiting


def checked_seconds(timeout: object) -> float:
    """Errors: `TypeError`."""
    if isinstance(timeout, timedelta):
        return timeout.total_seconds()
    raise TypeError(f"timeout={timeout!r}; give a duration, timedelta(seconds=5) or seconds(5)")


def check_position(position: object) -> None:
    """Errors: `TypeError`."""
    if not isinstance(position, Position):
        advice = "Position(text) makes one of a text" if isinstance(position, str) else "such as receipt.position"
        raise TypeError(f"{position!r} is no position; {advice}")
