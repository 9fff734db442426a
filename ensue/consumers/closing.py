"""Streams that are closed: nothing goes into one behind the event that closed it, by whatever way it comes.

What a request appends itself is refused under a condition of the request, so that of two that meet one wins. What a function inside
the transaction emits is known only there; it is refused where the stream was closed by an earlier batch.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from ensue.errors import ApplyFailed, Conflict, StreamClosed
from ensue.events.registry import Registry
from ensue.events.stored import Draft, decode_meta
from ensue.store.base import (
    Condition,
    Emission,
    OwnTransaction,
    OwnTransactions,
    Request,
    Store,
    Term,
    WriterTransaction,
    Written,
)
from ensue.world import World

__all__ = ["OWN", "with_closed_streams"]

REMEMBERED = 100_000
OWN = "ensue."
"""Of what Ensue itself says about a key, such as that its subject was forgotten, no event is the last."""


def with_closed_streams(store: Store, registry: Registry) -> Store:
    """The same store, whose requests append nothing to a stream that an event of the registry's closing types has closed.

    Errors besides those of `Log.write`: `StreamClosed`; where a consumer's commit emitted the event, `ApplyFailed` with it as the
    cause, so that only the delivery that did so fails.
    """
    # What lacks a capability is told by the name of the adapter.
    return cast(Store, type(type(store).__name__, (_Guarded,), {})(store, registry))


class _Guarded:
    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._telling: set[asyncio.Task[None]] = set()
        self._not_closed: OrderedDict[bytes, int] = OrderedDict()
        """Streams, and a position up to which nothing has closed them: what is looked at again is only what came since."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def open(self, world: World) -> None:
        """See `Log.open`."""
        self._world = world
        await self._store.open(world)

    def write(self, request: Request) -> asyncio.Future[Written]:
        """See `Log.write`."""
        if not self._registry.closing:
            return self._store.write(request)
        try:
            streams = self._streams(request.events)
        except StreamClosed as error:
            refused: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
            refused.set_exception(_of_commit(request, error, self._first_behind(request.events)))
            return refused
        written = self._store.write(self._guarded(request, streams))
        if not streams:
            return written
        answer: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        written.add_done_callback(lambda done: self._answered(done, answer, request, streams))
        return answer

    async def begin(self) -> OwnTransaction:
        """See `OwnTransactions.begin`."""
        own = await cast(OwnTransactions, self._store).begin()
        return cast(OwnTransaction, _Own(own, self)) if self._registry.closing else own

    def _guarded(self, request: Request, streams: dict[bytes, Term]) -> Request:
        return msgspec.structs.replace(
            request,
            conditions=(
                *request.conditions,
                *(Condition((term,), self._not_closed.get(stream, 0)) for stream, term in streams.items()),
            ),
            apply=tuple(self._checked(function) for function in request.apply),
        )

    def _streams(self, drafts: Sequence[Draft]) -> dict[bytes, Term]:
        """What must not have happened, for each stream that these go to and that may be closed. Errors: `StreamClosed` where one of
        them stands behind the one that closes."""
        found: dict[bytes, Term] = {}
        closed: set[bytes] = set()
        for draft in drafts:
            if draft.stream is None or draft.type_name.startswith(OWN) or draft.type_name in self._registry.found:
                continue
            key = decode_meta(draft.meta).key or ""
            names = self._registry.closing.get(key.partition("=")[0])
            if names is None:
                continue
            if draft.stream in closed:
                raise _closed(key, draft)
            if draft.type_name in names:
                closed.add(draft.stream)
            found.setdefault(draft.stream, Term(types=names, tags=(draft.stream,)))
        return found

    def _first_behind(self, drafts: Sequence[Draft]) -> int:
        for number in range(1, len(drafts)):
            try:
                self._streams(drafts[: number + 1])
            except StreamClosed:
                return number
        return 0

    def _checked(self, function: Emission) -> Emission:
        def run(sql: WriterTransaction) -> Sequence[Draft]:
            drafts = function(sql)
            for stream, term in self._streams(drafts).items():
                if sql.read((term,), after=0, limit=1):
                    draft = next(one for one in drafts if one.stream == stream)
                    raise _closed(decode_meta(draft.meta).key or "", draft)
            return drafts

        return run

    def _answered(
        self,
        done: asyncio.Future[Written],
        answer: asyncio.Future[Written],
        request: Request,
        streams: dict[bytes, Term],
    ) -> None:
        error = None if done.cancelled() else done.exception()
        if isinstance(error, Conflict):
            task = self._world.spawn(self._tell(error, answer, request, streams), name="ensue closed streams")
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        elif answer.done():
            pass
        elif error is not None:
            answer.set_exception(error)
        elif done.cancelled():
            answer.cancel()
        else:
            self._learn(request, streams, done.result())
            answer.set_result(done.result())

    def _learn(self, request: Request, streams: dict[bytes, Term], written: Written) -> None:
        """They were not closed when this was written, unless it closes them."""
        if written.replayed:
            return
        closed = {
            draft.stream
            for draft in request.events
            if draft.stream in streams and draft.type_name in streams[draft.stream].types
        }
        for stream in streams:
            if stream not in closed:
                self._not_closed[stream] = max(self._not_closed.pop(stream, 0), written.last)
        while len(self._not_closed) > REMEMBERED:
            self._not_closed.popitem(last=False)

    async def _tell(
        self, error: Conflict, answer: asyncio.Future[Written], request: Request, streams: dict[bytes, Term]
    ) -> None:
        """Whether it was a closed stream that the request met, or what it was about itself: then whoever decided looks again."""
        told: Exception = error
        try:
            if not await self._broken(request.conditions):
                told = await self.refused(request, streams) or error
        except Exception as failed:
            told = failed
        if not answer.done():
            answer.set_exception(told)

    async def _broken(self, conditions: Sequence[Condition]) -> bool:
        for condition in conditions:
            if (await self._store.read(condition.selection, after=condition.after, limit=1)).rows:
                return True
        return False

    async def refused(self, request: Request, streams: dict[bytes, Term]) -> Exception | None:
        """The closed stream that a request was for."""
        for stream, term in streams.items():
            if (await self._store.read((term,), limit=1)).rows:
                number = next(at for at, draft in enumerate(request.events) if draft.stream == stream)
                draft = request.events[number]
                return _of_commit(request, _closed(decode_meta(draft.meta).key or "", draft), number)
        return None


class _Own:
    """A transaction of the caller's own, whose commit is guarded."""

    def __init__(self, own: OwnTransaction, guarded: _Guarded) -> None:
        self._own = own
        self._by = guarded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    async def commit(self, request: Request) -> Written:
        streams = self._by._streams(request.events)
        try:
            return await self._own.commit(self._by._guarded(request, streams))
        except Conflict as error:
            if await self._by._broken(request.conditions):
                raise
            raise await self._by.refused(request, streams) or error from None


def _of_commit(request: Request, error: StreamClosed, event: int) -> Exception:
    """As the one who wrote the request expects it: of a consumer's commit one delivery fails."""
    if request.commit is None:
        return error
    failed = ApplyFailed(str(error), unit=0, event=event)
    failed.__cause__ = error
    return failed


def _closed(key: str, draft: Draft) -> StreamClosed:
    return StreamClosed(
        f"the stream {key} is closed, and {draft.type_name} was to go into it: nothing was stored. What closes a stream is its last "
        "event; to go on, begin another"
    )
