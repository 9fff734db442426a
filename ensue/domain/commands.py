"""Deciding: a command, the states it looks at, and the events that it leads to, stored only if those states still hold.

1. The states are loaded: as this process remembers them where it does (`states.py`), else from the log.
2. The handler decides. It is pure, or may be called again: what it returns counts only if it is stored.
3. The events go to the writer under the condition that nothing has come which any of those states would have read.
4. Where something has come (`Conflict`), the states read only what is new, and the handler decides again, `attempts` times; from
   the third on it waits a little before.

A *no*, or any other error, is given only from states that are current: on remembered ones the handler is asked again. Decisions
of one process about the same state take turns, so that they do not spend each other's attempts; those that wait meanwhile are made
and stored together (`together.py`).

With an idempotency key the answer is stored beside the events, a refusal as well: the same command with the same key has the
same answer, also after a crash.

A handler that takes a `Transaction` decides in the commit itself: the conditions of its states are checked before it is called.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import msgspec

from ensue.consumers.handler import Wants
from ensue.consumers.handling import Inside, Scope, inside_handler
from ensue.consumers.transaction import Transaction
from ensue.domain.answers import answer_of
from ensue.domain.call import Answer, Call
from ensue.domain.command import CommandDefinition, StateParameter
from ensue.domain.fold import Boundary, Folding
from ensue.domain.outcome import Keyed, Outcome, Stored, encoded, outcome_of, refusal_of
from ensue.domain.states import Kept, Loaded, States
from ensue.domain.together import JOBS, Decision, Job, Together
from ensue.domain.turns import Turns
from ensue.errors import ApplyFailed, Conflict, DefinitionError, IdempotencyKeyReused, Refusal
from ensue.events.message import Command, Event
from ensue.events.recorded import Position, archived_error
from ensue.events.registry import Registry
from ensue.events.stored import Draft, Row
from ensue.events.upcasting import Parts
from ensue.observe.signals import CommandDecided, CommandRefused, Observer
from ensue.store.base import Request, SqlTransaction, Store, Written
from ensue.world import World

__all__ = ["Commands", "Drafts"]

QUICK_ATTEMPTS = 3
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.004, 0.25

Drafts: TypeAlias = Callable[[Iterable[Event], Call[Any]], list[Draft]]
"""Encodes what a call led to."""


class Commands:
    """The command handlers of one open application."""

    def __init__(
        self,
        definitions: Sequence[CommandDefinition],
        store: Store,
        registry: Registry,
        states: States,
        scope: Scope,
        drafts: Drafts,
        world: World,
        observe: Observer,
    ) -> None:
        self._store = store
        self._world = world
        self._observe = observe
        self._drafts = drafts
        self._registry = registry
        self._states = states
        self._scope = scope
        self._turns: Turns[Job] = Turns()
        self._together = Together(store, states, self._decide_job, self._place, self._step_aside, self._decide_alone)
        self._groups: set[asyncio.Task[None]] = set()
        self._by_type: dict[type[Command[Any]], CommandDefinition] = {}
        self._foldings: dict[CommandDefinition, tuple[Folding[Any] | None, ...]] = {}
        for definition in definitions:
            registry.covering(definition.emits)
            self._foldings[definition] = tuple(
                states.folding(one.fold) if isinstance(one, StateParameter) else None for one in definition.parameters
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
            given: Any = command
            if not isinstance(given, Command):
                raise DefinitionError(
                    f"{type(given).__name__} is no command: send() takes commands. Queries are for ask(), events for publish()"
                )
            known = ", ".join(sorted(one.__name__ for one in self._by_type)) or "none"
            raise DefinitionError(
                f"nothing decides {type(command).__name__}: register a handler with @app.command, or include its service. "
                f"Commands decided here: {known}"
            )
        return found

    async def decide(self, definition: CommandDefinition, call: Call[Command[Any]]) -> Answer:
        """Decide and store. See `App.send`."""
        began, call.attempt = self._world.monotonic(), 1  # a middleware may proceed again
        try:
            answer = await self._decided(definition, call)
        except Refusal as refusal:
            self._observe(
                CommandRefused(
                    consumer=definition.name,
                    command=type(call.message).__name__,
                    refusal=type(refusal).__name__,
                    attempts=call.attempt,
                    seconds=self._world.monotonic() - began,
                )
            )
            raise
        self._observe(
            CommandDecided(
                consumer=definition.name,
                command=type(call.message).__name__,
                replayed=answer.replayed,
                attempts=call.attempt,
                seconds=self._world.monotonic() - began,
            )
        )
        return answer

    async def _decided(self, definition: CommandDefinition, call: Call[Command[Any]]) -> Answer:
        boundaries = [
            folding.boundary(call.message, one.fields, one.criteria)
            for folding, one in zip(self._foldings[definition], definition.parameters, strict=True)
            if folding is not None and isinstance(one, StateParameter)
        ]
        keyed = Keyed(call.message, call.idempotency_key) if call.idempotency_key is not None else None
        # Taken in one order by all, so that none waits in a circle.
        keys = [term.tags for boundary in boundaries for term in boundary.selection]
        if len(keys) > 1:
            keys = sorted(set(keys))
        # Whoever has to wait may be taken along by who has the turn before it.
        alone = definition.inside or definition.is_async or not self._turns.taken(keys)
        job = None if alone else Job(definition, call, boundaries, keyed)
        try:
            taken_along = await self._turns.take(keys, job)
        except BaseException:
            if job is not None:
                job.answer.cancel()
            raise
        if job is not None and taken_along:
            return await job.answer
        if job is not None and self._turns.waited_for(keys):
            # A task of its own: who sent the command may be cancelled, and those who were taken along are not.
            group = self._world.spawn(self._lead(job, keys), name="ensue decisions")
            self._groups.add(group)
            group.add_done_callback(self._groups.discard)
            return await job.answer
        try:
            return await self._in_turn(definition, call, boundaries, keyed)
        finally:
            self._turns.give(keys)

    async def close(self) -> None:
        """Until what is decided together is answered."""
        if self._groups:
            await asyncio.wait(self._groups)

    async def _lead(self, job: Job, keys: Sequence[tuple[bytes, ...]]) -> None:
        """Decide this one, and with it those that wait for the same states."""
        jobs, more = self._turns.take_along(keys, JOBS)
        try:
            await self._together.run([job, *jobs])
        except BaseException as error:
            for one in (job, *jobs):
                one.failed(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._turns.give([*keys, *more])

    def _decide_job(self, job: Job, values: Sequence[Any]) -> Decision:
        """Call the handler. Errors: what it raises, `TypeError`, `InvalidEvent`."""
        definition, call = job.definition, job.call
        token = inside_handler.set(Inside(definition.name, "decides a command"))
        try:
            result = definition.function(call.message, *self._arguments(definition, call, values))
            outcome = outcome_of(definition, type(call.message), result)
        except Refusal as refusal:
            if job.keyed is None:
                raise
            outcome = Outcome((), None, "refused", refusal)
        finally:
            inside_handler.reset(token)
        kept = b"" if job.keyed is None else encoded(outcome)
        return Decision(outcome.events, self._drafts(outcome.events, call), outcome.result, kept, outcome.refusal)

    async def _decide_alone(self, job: Job) -> Answer:
        return await self._in_turn(job.definition, job.call, job.boundaries, job.keyed)

    def _place(self, first: int, last: int, result: Any) -> Answer:
        return self._answer(Written(first, last), result)

    async def _in_turn(
        self,
        definition: CommandDefinition,
        call: Call[Command[Any]],
        boundaries: Sequence[Boundary[Any]],
        keyed: Keyed | None,
    ) -> Answer:
        current = False
        while True:
            loaded = await self._states.load(*boundaries, current=current)
            try:
                if definition.inside:
                    return await self._decide_inside(definition, call, loaded, keyed)
                outcome = await self._decide(definition, call, loaded, keyed)
                return await self._storeoutcome_of(outcome, call, loaded, keyed)
            except _OnOldStates:
                pass  # no attempt: who decides on what may be old has not decided
            except _KnownBefore as known:
                return self._answer(known.written, await self._again(known.written, keyed))
            except Conflict:
                if call.attempt >= definition.attempts:
                    raise
                await self._step_aside(call.attempt)
                call.attempt += 1
            current = True

    async def _step_aside(self, attempt: int) -> None:
        """Whoever meets others again and again waits for a while, so that a process with many decisions on one state at hand,
        which is always the next to write, comes to their end."""
        if attempt >= QUICK_ATTEMPTS:
            most = min(FIRST_WAIT_SECONDS * 2 ** (attempt - QUICK_ATTEMPTS), LONGEST_WAIT_SECONDS)
            await self._world.sleep(self._world.random() * most)

    # ------------------------------------------------------------------------------------------------------ deciding

    async def _decide(
        self, definition: CommandDefinition, call: Call[Any], loaded: Sequence[Loaded[Any]], keyed: Keyed | None
    ) -> Outcome:
        """Call the handler. Errors: what it raises; `_OnOldStates` where the states may be behind the log; `_KnownBefore`."""
        arguments = self._arguments(definition, call, [one.value for one in loaded])
        token = inside_handler.set(Inside(definition.name, "decides a command"))
        try:
            result = definition.function(call.message, *arguments)
            if definition.is_async:
                result = await result
        except Exception as error:
            return await self._raised(error, loaded, keyed)
        finally:
            inside_handler.reset(token)
        return outcome_of(definition, type(call.message), result)

    async def _decide_inside(
        self, definition: CommandDefinition, call: Call[Any], loaded: Sequence[Loaded[Any]], keyed: Keyed | None
    ) -> Answer:
        """Call the handler in the commit that stores what it leads to. Errors: as `_decide`; those of the store."""
        decided: list[tuple[Outcome, list[Kept | None], bytes]] = []

        def apply(sql: SqlTransaction) -> Sequence[Draft]:
            # A store may run it again, so that each run has states of its own.
            transaction, values = Transaction(sql), [copy.deepcopy(one.value) for one in loaded]
            token = inside_handler.set(Inside(definition.name, "decides a command"))
            try:
                result = definition.function(call.message, *self._arguments(definition, call, values, transaction))
            finally:
                inside_handler.reset(token)
            if transaction.emitted:
                raise TypeError(f"{definition.name}: a command handler returns its events; tx.emit is for app.transact")
            outcome = outcome_of(definition, type(call.message), result)
            drafts = self._drafts(outcome.events, call)
            nexts = [self._states.next(one, outcome.events, drafts) for one in loaded]
            decided[:] = [(outcome, nexts, b"" if keyed is None else encoded(outcome))]
            return drafts

        request = Request(
            apply=(apply,),
            conditions=tuple(one.condition for one in loaded),
            idempotency_key=keyed.key if keyed is not None else None,
            fingerprint=keyed.fingerprint if keyed is not None else b"",
            result=(lambda: decided[0][2]) if keyed is not None else None,
        )
        await self._store.room()
        try:
            written = await self._store.write(request)
        except ApplyFailed as error:
            if not isinstance(error.__cause__, Exception):
                raise
            refused = await self._raised(error.__cause__, loaded, keyed)
            return await self._storeoutcome_of(refused, call, loaded, keyed)
        if written.replayed:
            return self._answer(written, await self._again(written, keyed))
        outcome, nexts, _ = decided[0]
        self._states.stored(loaded, nexts, written.last if outcome.events else 0)
        return self._answer(written, outcome.result)

    def _arguments(
        self,
        definition: CommandDefinition,
        call: Call[Any],
        values: Iterable[Any],
        transaction: Transaction | None = None,
    ) -> list[Any]:
        states = iter(values)
        arguments: list[Any] = []
        for one in definition.parameters:
            if isinstance(one, StateParameter):
                arguments.append(next(states))
            elif one.wants is Wants.CONTEXT:
                arguments.append(call)
            elif one.wants is Wants.TRANSACTION:
                arguments.append(transaction)
            else:
                arguments.append(self._scope.value(one))
        return arguments

    async def _raised(self, error: Exception, loaded: Sequence[Loaded[Any]], keyed: Keyed | None) -> Outcome:
        """What a handler raised, as an outcome where it is a refusal that is to be kept. Errors: itself, `_OnOldStates`, and
        `_KnownBefore` where the idempotency key has an answer already."""
        if not all(one.current for one in loaded):
            raise _OnOldStates from error
        if keyed is not None:
            if isinstance(error, Refusal):
                return Outcome((), None, "refused", error)
            await self._look_up(keyed)
        raise error from error.__cause__

    async def _look_up(self, keyed: Keyed) -> None:
        """Errors: `_KnownBefore` where this key has an answer; `IdempotencyKeyReused`."""

        def unknown(_: SqlTransaction) -> Sequence[Draft]:
            raise LookupError

        try:  # a known key is answered before functions run; nothing is stored for one that is not
            request = Request(apply=(unknown,), idempotency_key=keyed.key, fingerprint=keyed.fingerprint)
            written = await self._store.write(request)
        except ApplyFailed:
            return
        raise _KnownBefore(written)

    def _answer(self, written: Written, result: Any) -> Answer:
        position = Position.of(self._store.log_id, written.first, written.last)
        return Answer(result, position, written.replayed)

    async def _storeoutcome_of(
        self, outcome: Outcome, call: Call[Any], loaded: Sequence[Loaded[Any]], keyed: Keyed | None
    ) -> Answer:
        if not outcome.events and keyed is None:
            if not all(one.current for one in loaded):
                raise _OnOldStates  # nothing is written that could tell whether they still hold
            at = loaded[0].position if loaded else self._store.head()
            return self._answer(Written(at + 1, at), outcome.result)
        drafts = self._drafts(outcome.events, call)
        kept = b"" if keyed is None else encoded(outcome)
        nexts = [self._states.next(one, outcome.events, drafts) for one in loaded]
        request = Request(
            events=drafts,
            conditions=tuple(one.condition for one in loaded),
            idempotency_key=keyed.key if keyed is not None else None,
            fingerprint=keyed.fingerprint if keyed is not None else b"",
            result=(lambda: kept) if keyed is not None else None,
        )
        await self._store.room()
        written = await self._store.write(request)
        if written.replayed:
            return self._answer(written, await self._again(written, keyed))
        self._states.stored(loaded, nexts, written.last if drafts else 0)
        if outcome.refusal is not None:
            raise outcome.refusal
        return self._answer(written, outcome.result)

    # ----------------------------------------------------------------------------------------------------- repetitions

    async def _again(self, written: Written, keyed: Keyed | None) -> Any:
        """The first answer of an idempotency key. Errors: the first refusal; `IdempotencyKeyReused`."""
        assert keyed is not None
        try:
            stored = msgspec.json.decode(written.result, type=Stored)
        except msgspec.MsgspecError:
            raise IdempotencyKeyReused(
                f"the idempotency key of this {type(keyed.command).__name__} was used before, by a write that was no command"
            ) from None
        if stored.shape == "refused":
            raise refusal_of(stored)
        if stored.shape == "value":
            return msgspec.json.decode(stored.value, type=answer_of(type(keyed.command)))
        rows: list[Any] = []
        while len(rows) < written.last - written.first + 1:
            after = rows[-1][0] if rows else written.first - 1
            rows += (await self._store.read((), after=after, before=written.last + 1)).rows
        events = [event for row in rows for event in self._events(row)]
        if stored.shape == "none":
            return None
        return events[0] if stored.shape == "one" and len(events) == 1 else events

    def _events(self, row: Row) -> list[Event]:
        """What a stored event is read as. Errors: `UnreadableEvent`."""
        name, version = self._store.known_types()[row[2]]
        try:
            read = self._registry.reader(name, version)(row[11])
        except Exception as error:
            gone = archived_error(row, name)
            if gone is not None:
                raise gone from error
            raise
        return [event for _, event in self._registry.selected(read, row)] if isinstance(read, Parts) else [read]


class _OnOldStates(Exception):
    """The handler raised, and a state that it was given may be older than the log."""


class _KnownBefore(Exception):
    """The idempotency key of a command has an answer already."""

    def __init__(self, written: Written) -> None:
        super().__init__(written)
        self.written = written
