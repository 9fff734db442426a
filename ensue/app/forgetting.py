"""Forgetting a subject: its key is destroyed, then the log tells everybody who holds anything of it.

1. The key is destroyed in the key store, durably: from here on nobody can learn it any more who does not know it.
2. `SubjectForgotten` is appended, once for each subject, in the subject's stream. Processes that follow it drop the key and what
   they remember; handlers and views erase what they hold.
3. What failures said about the subject's events is taken out of the dead letters, and the database is asked to overwrite what it
   has deleted.

A crash in between leaves it half done, never undone: when an application next opens the log, it appends what is missing for every
subject whose key is destroyed, and destroys the key of every subject that the log says is forgotten. So a backup of either, put
back, brings nobody back whom the other still knows to be forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from ensue.errors import GiveUp, KeyLost, OutcomeUnknown, TryAgain
from ensue.events.personal import SubjectForgotten, sealed_subjects
from ensue.events.registry import Registry, declaration
from ensue.events.stored import Draft, Row, decode_meta, encode_meta, tag_hash
from ensue.store.base import Request, Store, Term, Written
from ensue.store.keys import KeyRing
from ensue.world import World

__all__ = ["SAID", "Forgetting", "forget_subject", "forgotten_subjects", "lost_subjects"]

PAGE = 1000
ATTEMPTS = 5
PAUSE_SECONDS = 0.25
"""How often a process looks, at most, whether somebody was forgotten, while the log is written to."""
AGAIN_SECONDS = 1.0
SAID = "what was said here was about a subject that was forgotten"
NAME = declaration(SubjectForgotten).name


def _draft(subject: str, world: World) -> Draft:
    draft = Registry().draft(SubjectForgotten(subject=subject), id=world.new_id(), time=world.now())
    meta = msgspec.structs.replace(decode_meta(draft.meta), key=subject)
    return msgspec.structs.replace(draft, stream=tag_hash(subject), meta=encode_meta(meta))


async def forget_subject(store: Store, keys: KeyRing, world: World, subject: str) -> tuple[bool, Written]:
    """See `App.forget`. Whether a key was destroyed by it, and where `SubjectForgotten` is."""
    keys.open()
    if tag_hash(subject) not in keys.store.find((tag_hash(subject),)):
        head = store.head()
        return False, Written(head + 1, head)
    destroyed = keys.destroy([subject]) > 0
    world.failpoint("forget.destroyed")
    written = await _tell(store, world, subject)
    world.failpoint("forget.told")
    await store.erase(tag_hash(subject), SAID)
    world.failpoint("forget.erased")
    return destroyed, written


async def _tell(store: Store, world: World, subject: str) -> Written:
    key = tag_hash(f"ensue.forget\0{subject}")
    request = Request(events=(_draft(subject, world),), idempotency_key=key, fingerprint=b"forgotten")
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(OutcomeUnknown):
            await store.room()
            return await store.write(request)
    return await store.write(request)


async def forgotten_subjects(store: Store, after: int = 0) -> AsyncIterator[tuple[int, Sequence[str]]]:
    """The subjects that the log says are forgotten, in pages, each with how far it has been read; until the head."""
    while True:
        page = await store.read((Term(types=(NAME,)),), after=after, limit=PAGE)
        after = max(after, page.reached)
        yield after, [_subject(row) for row in page.rows]
        if after >= store.head():
            return


async def lost_subjects(store: Store, keys: KeyRing, told: Callable[[int], None]) -> list[str]:
    """The subjects of whom the log holds what is sealed, and of whom the key store knows nothing."""
    keys.open()
    after, seen, lost = 0, set[bytes](), dict[str, None]()
    while True:
        page = await store.read((), after=after, limit=PAGE)
        for row in page.rows:
            subjects = [subject for subject in sealed_subjects(row[11]) if subject not in seen]
            if subjects:
                meta = decode_meta(row[10])
                texts = {tag_hash(text): text for text in (meta.key, *meta.tags) if text is not None}
                known = keys.store.find(subjects)
                lost.update((texts[one], None) for one in subjects if one not in known and one in texts)
                seen.update(subjects)
        after = max(after, page.reached)
        told(after)
        if after >= store.head():
            return list(lost)


def _subject(row: Row) -> str:
    return msgspec.json.decode(row[11], type=_Fields).subject


class _Fields(msgspec.Struct):
    subject: str


class Forgetting:
    """What one open application does about it. `drop` is called when a subject was forgotten, here or elsewhere."""

    def __init__(self, store: Store, registry: Registry, keys: KeyRing, world: World, drop: Callable[[], None]) -> None:
        self._store = store
        self._registry = registry
        self._keys = keys
        self._world = world
        self._drop = drop
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def open(self) -> None:
        """Where the application has types with personal fields: bring log and key store into line, and follow the log. Errors:
        `KeyLost` for a key store that is new where the log is not; those of both stores."""
        self._loop = asyncio.get_running_loop()
        self._keys.used = self._used
        if not self._registry.personal:
            return
        self._keys.open()
        if self._keys.store.is_empty():
            await self._check_new()
        told: set[str] = set()
        async for _, subjects in forgotten_subjects(self._store):
            told.update(subjects)
        destroyed = set(self._keys.store.forgotten())
        if told - destroyed:
            self._keys.destroy(sorted(told - destroyed))
        for subject in sorted(destroyed - told):
            await _tell(self._store, self._world, subject)
            await self._store.erase(tag_hash(subject), SAID)

    async def _check_new(self) -> None:
        names = self._registry.names(self._registry.personal)
        page = await self._store.read((Term(types=names),), limit=1)
        for row in page.rows:
            if b'"$personal"' in row[11]:
                raise KeyLost(
                    f"the key store {self._keys.store.shown} is empty, and the log holds personal data, at position {row[0]}: it "
                    "is another store than the one it was written with, or was lost. Say where the keys are, App(keys=…) or "
                    "ENSUE_KEYS, or restore them. If they are gone for ever, so is that data: `ensue forget --lost` says so to the log"
                )

    async def forget(self, subject: str) -> tuple[bool, Written]:
        """See `App.forget`."""
        done = await forget_subject(self._store, self._keys, self._world, subject)
        self._drop()
        return done

    def _used(self) -> None:
        """The keys are used for the first time: from now on there is something to drop. On whatever thread."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        if not self._closed and self._task is None:
            self._task = self._world.spawn(self._follow(self._store.head()), name="ensue forget")

    async def _follow(self, after: int) -> None:
        while True:
            try:
                await self._store.changed(after)
                async for reached, subjects in forgotten_subjects(self._store, after):
                    for subject in subjects:
                        self._keys.drop(subject)
                    if subjects:
                        self._drop()
                    after = reached
                await self._world.sleep(PAUSE_SECONDS)
            except TryAgain:
                await self._world.sleep(AGAIN_SECONDS)
            except GiveUp:
                return  # nothing is read from this log any more, which others tell

    async def close(self) -> None:
        """Forget all keys."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._keys.close()
