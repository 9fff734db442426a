"""What a detector looks for: one pattern, window or join of an application, and what its handlers want to be told of it."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec

from ensue.consumers.handler import HandlerDefinition, Noticed, Role, Start
from ensue.consumers.node import PATTERNS
from ensue.errors import DefinitionError
from ensue.events.message import declaration
from ensue.patterns.definition import Definition
from ensue.patterns.operator import Operator
from ensue.patterns.operators import operator_of
from ensue.patterns.ordering import Ordered, ordered

__all__ = ["Sought", "detectors", "ordered_of"]

FORMAT = b"1"
"""Of what is stored of a detector's state. State of another one is built anew."""


class Sought(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. `definition` is the class's own; `starts` are those that handlers ask for."""

    source: type
    definition: Any
    noticed: tuple[Noticed, ...]
    starts: tuple[Start, ...] = ()
    tenants: bool = False
    """Several tenants share the log: the keys of each are its own."""

    @property
    def timeouts(self) -> bool:
        return any(one.kind == "timed out" for one in self.noticed)

    def fingerprint(self, log_id: str) -> bytes:
        """State that was kept under another one is of no use."""
        own = self.definition.fingerprint
        if isinstance(self.definition, Definition):  # what is kept depends on the form in which the pattern runs
            own += operator_of(self.definition, timeouts=self.timeouts).fingerprint
        said = own + bytes((self.timeouts, self.tenants)) + log_id.encode() + FORMAT
        return blake2b(said, digest_size=16).digest()


def ordered_of(sought: Sought) -> Ordered:
    """A new operator, with its time."""
    definition = sought.definition

    def make() -> Operator:
        if isinstance(definition, Definition):
            return operator_of(definition, timeouts=sought.timeouts)
        from ensue.patterns.windowing.engine import window_operator

        return window_operator(definition)

    return ordered(
        make,
        time=definition.time,
        disorder=definition.disorder,
        idle=definition.idle,
        watermark=definition.watermark,
        lateness=definition.lateness,
    )


def _definition_of(source: Any) -> Any:
    """The definition of a pattern, window or join."""
    return getattr(source, "__ensue_pattern__", None) or source.__ensue_window__


def detectors(handlers: list[HandlerDefinition], *, tenants: bool) -> list[HandlerDefinition]:
    """The consumers that the patterns and windows of these handlers are: `pattern.NAME`. Errors: `DefinitionError` for two of one
    name, and for late events that nothing can miss."""
    wanted: dict[type, list[Noticed]] = {}
    starts: dict[type, list[Start]] = {}
    late: dict[type, Noticed] = {}
    for handler in handlers:
        for one in handler.noticed:
            if one.kind == "late":
                late[one.source] = one
                continue
            known = wanted.setdefault(one.source, [])
            if one not in known:
                known.append(one)
            if handler.start is not None:
                starts.setdefault(one.source, []).append(handler.start)
    found = [
        Sought(
            source=source,
            definition=_definition_of(source),
            noticed=tuple(noticed),
            starts=tuple(starts.get(source, ())),
            tenants=tenants,
        )
        for source, noticed in wanted.items()
    ]
    names: dict[str, type] = {}
    for sought in found:
        source, name = sought.source, sought.definition.name
        other = names.setdefault(name, source)
        if other is not source:
            raise DefinitionError(
                f"two patterns are called {name!r}: {other.__module__}.{other.__qualname__} and "
                f'{source.__module__}.{source.__qualname__}; give one of them name="…"'
            )
    return [_consumer(one) for one in _with_late(found, late)]


def _with_late(found: list[Sought], late: dict[type, Noticed]) -> list[Sought]:
    for event, _ in late.items():
        if not any(_may_miss(one, event) for one in found):
            raise DefinitionError(
                f"Late[{event.__name__}]: no pattern or window that is handled here takes {declaration(event).name} by its own time, so "
                "that none of them is ever late: say disorder= or time='event' on one"
            )
    return [
        msgspec.structs.replace(
            one, noticed=(*one.noticed, *(noticed for event, noticed in late.items() if _may_miss(one, event)))
        )
        for one in found
    ]


def _may_miss(sought: Sought, event: type) -> bool:
    takes = sought.definition.events
    return sought.definition.time == "event" and any(issubclass(one, event) or issubclass(event, one) for one in takes)


def _consumer(sought: Sought) -> HandlerDefinition:
    definition, source = sought.definition, sought.source
    function: Callable[..., Any] = source
    return HandlerDefinition(
        name=f"{PATTERNS}{definition.name}",
        function=function,
        events=definition.events,
        recorded=False,
        parameters=(),
        emits=tuple(dict.fromkeys(one.event for one in sought.noticed)),
        is_async=False,
        inside=False,
        pure=True,
        key=definition.key_tag,
        retry=None,
        timeout=None,
        concurrency=1,
        start=None,
        role=Role.DETECTOR,
        sought=sought,
    )
