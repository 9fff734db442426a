"""Deciding: a command, the states it looks at, and the events that it leads to, stored only if those states still hold.

1. The states are loaded: as this process remembers them where it does (`states.py`), else from the log.
2. The handler decides. It is pure, or may be called again: what it returns counts only if it is stored.
3. The events go to the writer under the condition that nothing has come which any of those states would have read.
4. Where something has come (`Conflict`), the states read only what is new, and the handler decides again, `attempts` times.

A *no*, or any other error, is given only from states that are current: on remembered ones the handler is asked again. Decisions
of one process about the same state take turns, so that they do not spend each other's attempts.

With an idempotency key the answer is stored beside the events, a refusal as well: the same command with the same key has the
same answer, also after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from ensue.consumers.handling import Scope, inside_handler
from ensue.domain.command import CommandDefinition, Decided, StateParameter
from ensue.domain.fold import Folding
from ensue.domain.states import Loaded, States
from ensue.errors import Conflict, DefinitionError, IdempotencyKeyReused, InvalidEvent, Refusal
from ensue.events.message import Command, Event
from ensue.events.registry import Registry
from ensue.events.stored import Draft, tag_hash
from ensue.store.base import Request, Store, Written

__all__ = ["Answer", "Commands"]


class Answer(msgspec.Struct, frozen=True):
    """What came of a command that was granted."""

    written: Written
    result: Any


class _Outcome(msgspec.Struct, frozen=True):
    """What one call of a handler led to. A refusal has no events."""

    events: tuple[Event, ...]
    result: Any
    shape: str
    refusal: Refusal | None = None


class _Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands beside an idempotency key. `shape`: one, many, none (the events themselves), value or refused."""

    shape: str
    value: msgspec.Raw = msgspec.Raw(b"null")
    kind: str = ""


class Commands:
    """The command handlers of one open application."""

    def __init__(
        self,
        definitions: Sequence[CommandDefinition],
        store: Store,
        registry: Registry,
        states: States,
        scope: Scope,
        drafts: Callable[[Iterable[Event]], list[Draft]],
    ) -> None:
        self._store = store
        self._drafts = drafts
        self._registry = registry
        self._states = states
        self._scope = scope
        self._turns: dict[tuple[bytes, ...], _Turn] = {}
        self._by_type: dict[type[Command[Any]], CommandDefinition] = {}
        self._foldings: dict[CommandDefinition, tuple[Folding[Any] | None, ...]] = {}
        for definition in definitions:
            registry.covering(definition.emits)
            self._foldings[definition] = tuple(
                Folding(one.fold, registry) if isinstance(one, StateParameter) else None
                for one in definition.parameters
            )
            for command in definition.commands:
                other = self._by_type.setdefault(command, definition)
                if other is not definition:
                    raise DefinitionError(
                        f"{command.__name__} has two handlers, {other.name} and {definition.name}: a command is decided by one"
                    )

    def handler_of(self, command: Command[Any]) -> CommandDefinition:
        """Errors: `DefinitionError` for a command that nobody decides here."""
        found = self._by_type.get(type(command))
        if found is None:
            known = ", ".join(sorted(one.__name__ for one in self._by_type)) or "none"
            raise DefinitionError(
                f"nothing decides {type(command).__name__}: register a handler with @app.command, or include its service. "
                f"Commands decided here: {known}"
            )
        return found

    async def send(self, command: Command[Any], idempotency_key: str | None) -> Answer:
        """Decide and store. See `App.send`."""
        definition = self.handler_of(command)
        foldings = self._foldings[definition]
        named = [
            (folding, folding.tags(command, one.fields if isinstance(one, StateParameter) else None))
            for folding, one in zip(foldings, definition.parameters, strict=True)
            if folding is not None
        ]
        keyed = _Keyed(command, idempotency_key) if idempotency_key is not None else None
        async with self._turn(named):
            current = False
            for attempt in range(1, definition.attempts + 1):
                loaded = [await self._states.load(folding, tags, current=current) for folding, tags in named]
                try:
                    outcome = await self._decide(definition, command, loaded, keeps=keyed is not None)
                except _OnOldStates:
                    loaded = [await self._states.load(folding, tags, current=True) for folding, tags in named]
                    outcome = await self._decide(definition, command, loaded, keeps=keyed is not None)
                try:
                    return await self._store_outcome(outcome, loaded, keyed)
                except Conflict:
                    if attempt == definition.attempts:
                        raise
                    current = True
        raise AssertionError("unreachable")

    # ------------------------------------------------------------------------------------------------------ deciding

    async def _decide(
        self, definition: CommandDefinition, command: Command[Any], loaded: Sequence[Loaded[Any]], *, keeps: bool
    ) -> _Outcome:
        """Call the handler. Errors: what it raises; `_OnOldStates` where the states may be behind the log."""
        states = iter(loaded)
        arguments = [
            next(states).value if isinstance(one, StateParameter) else self._scope.value(one)
            for one in definition.parameters
        ]
        token = inside_handler.set(definition.name)
        try:
            result = definition.function(command, *arguments)
            if definition.is_async:
                result = await result
        except Exception as error:
            if not all(one.current for one in loaded):
                raise _OnOldStates from error
            if isinstance(error, Refusal) and keeps:
                return _Outcome((), None, "refused", error)
            raise
        finally:
            inside_handler.reset(token)
        return _outcome(definition.name, result)

    async def _store_outcome(self, outcome: _Outcome, loaded: Sequence[Loaded[Any]], keyed: _Keyed | None) -> Answer:
        drafts = self._drafts(outcome.events)
        kept = b"" if keyed is None else _encoded(outcome)
        request = Request(
            events=drafts,
            conditions=tuple(one.condition for one in loaded),
            idempotency_key=keyed.key if keyed is not None else None,
            fingerprint=keyed.fingerprint if keyed is not None else b"",
            result=(lambda: kept) if keyed is not None else None,
        )
        if not drafts and keyed is None and all(one.current for one in loaded):
            head = self._store.head()  # nothing to store: granted as it is, at what was read
            return Answer(Written(head + 1, head), outcome.result)
        await self._store.room()
        written = await self._store.write(request)
        if written.replayed:
            return Answer(written, await self._again(written, keyed))
        for one in loaded:
            self._states.decided(one, outcome.events, drafts, written.last)
        if outcome.refusal is not None:
            raise outcome.refusal
        return Answer(written, outcome.result)

    # ----------------------------------------------------------------------------------------------------- repetitions

    async def _again(self, written: Written, keyed: _Keyed | None) -> Any:
        """The first answer of an idempotency key. Errors: the first refusal; `IdempotencyKeyReused`."""
        assert keyed is not None
        try:
            stored = msgspec.json.decode(written.result, type=_Stored)
        except msgspec.MsgspecError:
            raise IdempotencyKeyReused(
                f"the idempotency key of this {type(keyed.command).__name__} was used before, by a write that was no command"
            ) from None
        if stored.shape == "refused":
            raise _refusal(stored)
        if stored.shape == "value":
            return msgspec.json.decode(stored.value, type=_answer_type(type(keyed.command)))
        rows: list[Any] = []
        while len(rows) < written.last - written.first + 1:
            after = rows[-1][0] if rows else written.first - 1
            rows += (await self._store.read((), after=after, before=written.last + 1)).rows
        types = self._store.known_types()
        events = [self._registry.decoder(*types[row[2]])(row[11]) for row in rows]
        return None if stored.shape == "none" else events[0] if stored.shape == "one" else events

    # ----------------------------------------------------------------------------------------------------------- turns

    @contextlib.asynccontextmanager
    async def _turn(self, named: Sequence[tuple[Folding[Any], tuple[bytes, ...]]]) -> AsyncGenerator[None, None]:
        """One decision after another about each of these states. Taken in one order by all, so that none waits in a circle."""
        async with contextlib.AsyncExitStack() as stack:
            for key in sorted({tags for _, tags in named}):
                await stack.enter_async_context(self._alone(key))
            yield

    @contextlib.asynccontextmanager
    async def _alone(self, key: tuple[bytes, ...]) -> AsyncGenerator[None, None]:
        turn = self._turns.setdefault(key, _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[key]


class _Turn:
    __slots__ = ("lock", "wanted")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


class _OnOldStates(Exception):
    """The handler raised, and a state that it was given may be older than the log."""


class _Keyed:
    """A command that is sent with an idempotency key."""

    def __init__(self, command: Command[Any], key: str) -> None:
        self.command = command
        self.key = tag_hash(f"idempotency={key}")
        name = f"{type(command).__module__}.{type(command).__qualname__}"
        try:
            said = msgspec.json.encode(command, order="deterministic")
        except (TypeError, ValueError) as error:
            raise InvalidEvent(
                f"{type(command).__name__} cannot be sent with an idempotency key: {error}. Its fields must be data, so that a "
                "repetition can be told from another command"
            ) from error
        self.fingerprint = blake2b(name.encode() + b"\0" + said, digest_size=16).digest()


def _outcome(name: str, result: Any) -> _Outcome:
    """What a handler returned. Errors: `TypeError`."""
    if isinstance(result, Decided):
        inner = _outcome(name, result.events)
        return _Outcome(inner.events, result.result, "value")
    if result is None:
        return _Outcome((), None, "none")
    if isinstance(result, Event):
        return _Outcome((result,), result, "one")
    if isinstance(result, Iterable) and not isinstance(result, str | bytes | Mapping):
        events = tuple(result)
        wrong = next((event for event in events if not isinstance(event, Event)), None)
        if wrong is None:
            return _Outcome(events, result if isinstance(result, list) else list(events), "many")
        result = wrong
    raise TypeError(
        f"{name} returned a value of type {type(result).__name__}; a command handler returns an event, several, none, or "
        "Decided(events, result=…) to answer something else"
    )


def _encoded(outcome: _Outcome) -> bytes:
    """What stands beside the idempotency key. Errors: `InvalidEvent` for what could not be given back."""
    try:
        if outcome.refusal is not None:
            kind, fields = type(outcome.refusal), vars(outcome.refusal)
            stored = _Stored(
                "refused", msgspec.Raw(msgspec.json.encode(fields)), f"{kind.__module__}.{kind.__qualname__}"
            )
        elif outcome.shape == "value":
            stored = _Stored("value", msgspec.Raw(msgspec.json.encode(outcome.result)))
        else:
            stored = _Stored(outcome.shape)
        return msgspec.json.encode(stored)
    except (TypeError, ValueError) as error:
        raise InvalidEvent(
            f"the answer {outcome.refusal or outcome.result!r} cannot be kept for repetitions: {error}"
        ) from error


def _refusal(stored: _Stored) -> Refusal:
    pending = list(Refusal.__subclasses__())
    for kind in pending:  # it grows
        pending.extend(kind.__subclasses__())
        if f"{kind.__module__}.{kind.__qualname__}" == stored.kind:
            return msgspec.json.decode(stored.value, type=kind)
    raise IdempotencyKeyReused(
        f"the first answer was the refusal {stored.kind}, which this code does not know any more"
    )


def _answer_type(command: type[Command[Any]]) -> Any:
    """What `Command[...]` says is answered."""
    for base in getattr(command, "__orig_bases__", ()):
        arguments = getattr(base, "__args__", ())
        if arguments:
            return arguments[0]
    return Any
