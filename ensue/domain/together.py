"""Deciding together: decisions of one process that waited for the same states are made one after another, each on what the one
before left, and stored as one.

While a decision is stored, others about the same states wait. The next one to have the turn takes them along: the states are
read once, each handler is called on what the states will be when the decisions before it are stored, and all events go to the
writer in one request, under the conditions of all those states. So either all of it is stored, and each decision was made on
the very states that it found in the log, or nothing is, and all of them are made anew. Only then is anything answered, a
refusal as well.

Each part is known by its own idempotency key, where it has one. A key that was used before, by one of them, makes nothing of the
request stored; then each is decided by itself. Only plain functions take part: nobody is to wait for another one's network.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context, copy_context
from typing import Any, NamedTuple

from ensue.domain.call import Answer, Call
from ensue.domain.command import CommandDefinition
from ensue.domain.fold import Boundary
from ensue.domain.outcome import Keyed
from ensue.domain.states import Kept, Loaded, States
from ensue.errors import ApplyFailed, Conflict, InvalidEvent, Refusal, StreamClosed
from ensue.events.message import Event
from ensue.events.stored import Draft
from ensue.store.base import Answered, Request, Store

__all__ = ["JOBS", "Decision", "Job", "Together"]

JOBS, EVENTS = 100, 1_000
"""So many decisions are made together, and no more once they have led to so many events."""


class Decision(NamedTuple):
    """What a handler led to: its events, ready to be stored, and its answer, or its refusal; for an idempotency key as it is kept."""

    events: Sequence[Event]
    drafts: Sequence[Draft]
    result: Any
    kept: bytes = b""
    refusal: Refusal | None = None


class Job:
    """A decision that may be made by somebody else. Handlers run in the context of whoever sent the command."""

    def __init__(
        self,
        definition: CommandDefinition,
        call: Call[Any],
        boundaries: Sequence[Boundary[Any]],
        keyed: Keyed | None,
    ) -> None:
        self.keyed = keyed
        self.definition = definition
        self.call = call
        self.boundaries = boundaries
        self.context: Context = copy_context()
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def answered(self, answer: Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def failed(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _States:
    """The states of several decisions: as they were loaded, and as they will be."""

    def __init__(self, states: States, loaded: Sequence[Loaded[Any]]) -> None:
        self._states = states
        self._loaded = {one.boundary: one for one in loaded}
        self._next: dict[Boundary[Any], Kept | None] = {one.boundary: one.kept for one in loaded}
        self._first = True
        self._by_tag: dict[bytes | None, list[Boundary[Any]]] = {}
        for boundary in self._loaded:
            for term in boundary.selection:
                self._by_tag.setdefault(term.tags[0] if term.tags else None, []).append(boundary)

    def values(self, boundaries: Sequence[Boundary[Any]]) -> list[Any] | None:
        """What the next decision looks at. None where a state cannot be known before it is read again."""
        first, self._first = self._first, False
        if first and len(set(boundaries)) == len(boundaries):
            return [self._loaded[one].value for one in boundaries]
        if first:  # one state under two names: each is the decision's own
            return [copy.deepcopy(self._loaded[one].value) for one in boundaries]
        kept = [self._next[one] for one in boundaries]
        if any(one is None or one.behind for one in kept):
            return None
        return [self._states.copy(one, data) for one, data in zip(boundaries, kept, strict=True) if data is not None]

    def follow(self, decision: Decision, own: Sequence[Boundary[Any]]) -> None:
        """Errors: `InvalidEvent` for an event that one of the decision's own states cannot follow."""
        found: dict[Boundary[Any], Kept | None] = {}
        for boundary in self._reading(decision.drafts):
            kept = self._next[boundary]
            if kept is None or kept.behind:
                continue
            try:
                loaded = self._loaded[boundary]
                found[boundary] = self._states.next(loaded, decision.events, decision.drafts, kept)
            except InvalidEvent:
                if boundary in own:
                    raise
                found[boundary] = None  # who looks at that one next will be told
        self._next.update(found)

    def _reading(self, drafts: Sequence[Draft]) -> Iterable[Boundary[Any]]:
        """The boundaries that may read one of these events."""
        tags = {None, *(draft.stream for draft in drafts), *(tag for draft in drafts for tag in draft.tags)}
        return dict.fromkeys(boundary for tag in tags for boundary in self._by_tag.get(tag, ()))

    def stored(self, last: int) -> None:
        self._states.stored(list(self._loaded.values()), list(self._next.values()), last)


def _answers(made: Sequence[tuple[Job, Decision | Exception]]) -> list[Answered]:
    answers: list[Answered] = []
    skip = 0
    for job, decision in made:
        if isinstance(decision, Decision):
            if job.keyed is not None:
                key, count = job.keyed, len(decision.drafts)
                answers.append(Answered(key.key, key.fingerprint, skip, count, decision.kept))
            skip += len(decision.drafts)
    return answers


def _may_be_known(job: Job, decision: Decision | Exception) -> bool:
    """Whether it failed, though its key may have an answer: that is looked up when it is decided by itself."""
    return job.keyed is not None and isinstance(decision, Exception)


class Together:
    """See the module. `decide` calls a job's handler on these values; `answer` makes an answer of its place."""

    def __init__(
        self,
        store: Store,
        states: States,
        decide: Callable[[Job, Sequence[Any]], Decision],
        answer: Callable[[int, int, Any], Answer],
        step_aside: Callable[[int], Awaitable[None]],
        alone: Callable[[Job], Awaitable[Answer]],
    ) -> None:
        self._store = store
        self._states = states
        self._decide = decide
        self._answer = answer
        self._step_aside = step_aside
        self._alone = alone

    async def run(self, jobs: Sequence[Job]) -> None:
        """Decide all of them, in this order. Each is answered by its own future."""
        left = list(jobs)
        while left:
            left = await self._round(left)

    async def _round(self, jobs: list[Job]) -> list[Job]:
        """Decide as many of them as can be decided together; those that are left."""
        boundaries = dict.fromkeys(boundary for job in jobs for boundary in job.boundaries)
        try:
            loaded = await self._states.load(*boundaries, current=True)
        except Exception:  # a state that cannot be read is the trouble of those who look at it
            return await self._one_by_one(jobs)
        states = _States(self._states, loaded)
        made = self._made(jobs, states)
        left = jobs[len(made) :]
        drafts = [draft for _, decision in made if isinstance(decision, Decision) for draft in decision.drafts]
        if not drafts:
            if any(job.keyed is not None for job, _ in made):
                return await self._one_by_one([job for job, _ in made]) + left
            at = loaded[0].position if loaded else self._store.head()
            self._tell(made, at + 1)
            return left
        conditions = tuple(one.condition for one in loaded)
        try:
            await self._store.room()
            written = await self._store.write(Request(events=drafts, conditions=conditions, answers=_answers(made)))
        except Conflict as conflict:
            if conflict.expected < 0:
                return await self._one_by_one([job for job, _ in made]) + left
            return await self._again([job for job, _ in made], conflict) + left
        except (ApplyFailed, StreamClosed) as closed:
            if len(made) > 1:  # one of them is about it, and the others are not to hear of it
                return await self._one_by_one([job for job, _ in made]) + left
            made[0][0].failed(closed)
            return left
        except Exception as error:
            for job, _ in made:
                job.failed(error)
            return left
        states.stored(written.last)
        self._tell(made, written.first)
        return await self._one_by_one([job for job, decision in made if _may_be_known(job, decision)]) + left

    def _made(self, jobs: Sequence[Job], states: _States) -> list[tuple[Job, Decision | Exception]]:
        made: list[tuple[Job, Decision | Exception]] = []
        events, keys = 0, set[bytes]()
        for job in jobs:
            key = job.keyed.key if job.keyed is not None else None
            values = states.values(job.boundaries) if events < EVENTS and key not in keys else None
            if values is None:
                break
            if key is not None:
                keys.add(key)
            try:
                decision = job.context.run(self._decide, job, values)
                states.follow(decision, job.boundaries)
            except Exception as error:
                made.append((job, error))
                continue
            events += len(decision.drafts)
            made.append((job, decision))
        return made

    async def _one_by_one(self, jobs: Sequence[Job]) -> list[Job]:
        for job in jobs:
            try:
                job.answered(await self._alone(job))
            except Exception as error:
                job.failed(error)
        return []

    async def _again(self, jobs: Sequence[Job], conflict: Conflict) -> list[Job]:
        """Those who may try again."""
        left: list[Job] = []
        for job in jobs:
            if job.call.attempt >= job.definition.attempts:
                job.failed(conflict)
            else:
                left.append(job)
        if left:
            await self._step_aside(min(job.call.attempt for job in left))
        for job in left:
            job.call.attempt += 1
        return left

    def _tell(self, made: Sequence[tuple[Job, Decision | Exception]], first: int) -> None:
        for job, decision in made:
            if _may_be_known(job, decision):
                continue
            if isinstance(decision, Exception):
                job.failed(decision)
                continue
            if decision.refusal is not None:
                job.failed(decision.refusal)
                continue
            last = first + len(decision.drafts) - 1
            job.answered(self._answer(first, last, decision.result))
            first = last + 1
