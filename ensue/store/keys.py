"""Where the secrets of subjects are kept: the port `KeyStore`, its adapter in memory, and what an application remembers of one.

A store of keys stands beside a log and is none of its tables, so that a backup of the log holds no keys. It knows, of each
subject: nothing yet; a secret; or that the secret was destroyed. A secret is durable before anything that is sealed with it is
stored, and where two processes meet a subject at the same time, one secret wins and both use it. What is destroyed stays destroyed.

The port is synchronous: events are encoded and decoded where nothing can be awaited. Each call is short, and what was asked for is
remembered (`KeyRing`) until the subject is forgotten.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ensue.errors import KeyLost
from ensue.events.personal import SECRET_BYTES
from ensue.events.stored import tag_hash
from ensue.world import World, new_lock

__all__ = ["KeyRing", "KeyRow", "KeyStore", "MemoryKeys"]

REMEMBERED = 20_000
"""So many subjects a process remembers, the least used dropped first."""


class KeyRow(msgspec.Struct, frozen=True):
    """What is known of a subject, `name=value`. Without a secret it was forgotten."""

    subject: str
    secret: bytes | None


class KeyStore(Protocol):
    """Every method may be called from any thread, one at a time. Errors of all of them: `Unavailable`, `StorageFull`."""

    shown: str
    """Where it is, without what may be secret."""

    def open(self) -> None:
        """Open or create. Idempotent."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...

    def find(self, subjects: Sequence[bytes], /) -> Mapping[bytes, KeyRow]:
        """What is known of the subjects whose tags have these hashes."""
        ...

    def create(self, secrets: Mapping[str, bytes], now: int, /) -> Mapping[bytes, KeyRow]:
        """Give these subjects these secrets, each unless something is known of it; then what is known of them, by hash. Durable, in
        one transaction."""
        ...

    def destroy(self, subjects: Sequence[str], now: int, /) -> int:
        """Make it known of these subjects that they were forgotten, their secrets overwritten as far as the database can. Returns how
        many secrets were destroyed by it. Durable, in one transaction."""
        ...

    def forgotten(self) -> Sequence[str]:
        """All subjects that were."""
        ...

    def is_empty(self) -> bool:
        """Nothing is known of anybody."""
        ...


class MemoryKeys:
    """Keys that are gone with the process, as a log in memory is."""

    shown = "memory:"

    def __init__(self) -> None:
        self._rows: dict[bytes, KeyRow] = {}

    def open(self) -> None:
        """See `KeyStore.open`."""

    def close(self) -> None:
        """See `KeyStore.close`."""

    def find(self, subjects: Sequence[bytes], /) -> Mapping[bytes, KeyRow]:
        """See `KeyStore.find`."""
        return {subject: self._rows[subject] for subject in subjects if subject in self._rows}

    def create(self, secrets: Mapping[str, bytes], now: int, /) -> Mapping[bytes, KeyRow]:
        """See `KeyStore.create`."""
        for subject, secret in secrets.items():
            self._rows.setdefault(tag_hash(subject), KeyRow(subject, secret))
        return self.find([tag_hash(subject) for subject in secrets])

    def destroy(self, subjects: Sequence[str], now: int, /) -> int:
        """See `KeyStore.destroy`."""
        known = self.find([tag_hash(subject) for subject in subjects])
        self._rows.update({tag_hash(subject): KeyRow(subject, None) for subject in subjects})
        return sum(row.secret is not None for row in known.values())

    def forgotten(self) -> Sequence[str]:
        """See `KeyStore.forgotten`."""
        return [row.subject for row in self._rows.values() if row.secret is None]

    def is_empty(self) -> bool:
        """See `KeyStore.is_empty`."""
        return not self._rows


class KeyRing:
    """The secrets that one open application uses, as `ensue.events.personal.Keys`. Opens its store when it is first asked.

    `used` is called once, then, on whatever thread that is. `missing` is told of in errors.
    """

    def __init__(self, store: KeyStore, world: World, *, used: Callable[[], None] | None = None) -> None:
        self.store = store
        self._world = world
        self.used = used
        self._lock = new_lock()
        self._open = False
        self._closed = False
        self._rows: OrderedDict[bytes, KeyRow] = OrderedDict()
        self._wanted: list[tuple[tuple[str, ...], asyncio.Future[None]]] = []
        self._threads: Any = None
        self._busy = False

    def open(self) -> None:
        """Open the store, where it is not. Errors: `Unavailable`, `WiringError`."""
        with self._lock:
            first = self._ready()
        if first and self.used is not None:
            self.used()

    def close(self) -> None:
        """Forget all secrets, and close the store."""
        with self._lock:
            self._closed = True
            self._rows.clear()
            if self._open:
                self.store.close()
            if self._threads is not None:
                self._threads.close()

    def _ready(self) -> bool:
        first, self._open = not self._open, True
        if first:
            try:
                self.store.open()
            except BaseException:
                self._open = False
                raise
        return first

    # ----------------------------------------------------------------------------------------------------- what codecs ask

    def sealing(self, subject: str, /) -> bytes | None:
        """See `Keys.sealing`."""
        hashed = tag_hash(subject)
        row = self._rows.get(hashed)
        if row is None:
            self.open()
            with self._lock:
                found = self.store.find((hashed,))
                if hashed not in found:
                    found = self.store.create({subject: self._secret()}, self._world.now())
                self._remember(found)
                row = found[hashed]
        return row.secret

    def opening(self, subject: bytes, /) -> bytes | None:
        """See `Keys.opening`."""
        row = self._rows.get(subject)
        if row is None:
            self.open()
            with self._lock:
                found = self.store.find((subject,))
                self._remember(found)
            row = found.get(subject)
        if row is None:
            raise KeyLost(
                f"the key of personal data is not in the key store {self.store.shown}, and its subject was not forgotten there: is it "
                "another store than the one it was written with, or was it restored from an older backup? Say where the keys are "
                "(ENSUE_KEYS), or restore them"
            )
        return row.secret

    def _secret(self) -> bytes:
        return self._world.secret(SECRET_BYTES)

    def _remember(self, rows: Mapping[bytes, KeyRow]) -> None:
        self._rows.update(rows)
        while len(self._rows) > REMEMBERED:
            self._rows.popitem(last=False)

    # ------------------------------------------------------------------------------------------------------------ ahead

    async def prepare(self, subjects: Iterable[str], /) -> None:
        """Make the secrets of these subjects on a thread, many in one transaction, so that encoding finds them. Nothing depends on
        it but time. Errors: `Unavailable`."""
        wanted = tuple(subject for subject in dict.fromkeys(subjects) if tag_hash(subject) not in self._rows)
        if not wanted:
            return
        self.open()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wanted.append((wanted, future))
        self._begin()
        await future

    def _begin(self) -> None:
        if self._busy or not self._wanted or self._closed:
            return
        self._busy = True
        batch, self._wanted = self._wanted, []
        if self._threads is None:
            self._threads = self._world.threads(1, name="ensue keys")

        def made(_: object, error: BaseException | None) -> None:
            self._busy = False
            for _, future in batch:
                if not future.done():
                    future.set_result(None) if error is None else future.set_exception(error)
            self._begin()

        secrets = {subject: self._secret() for subjects, _ in batch for subject in subjects}
        self._threads.run(lambda: self._make(secrets), made)

    def _make(self, secrets: Mapping[str, bytes]) -> None:
        with self._lock:
            if not self._closed:
                self._remember(self.store.create(secrets, self._world.now()))

    # --------------------------------------------------------------------------------------------------------- forgetting

    def destroy(self, subjects: Sequence[str]) -> int:
        """See `KeyStore.destroy`."""
        self.open()
        with self._lock:
            for subject in subjects:
                self._rows.pop(tag_hash(subject), None)
            return self.store.destroy(subjects, self._world.now())

    def drop(self, subject: str, /) -> None:
        """Ask the store when the subject is next met."""
        with self._lock:
            self._rows.pop(tag_hash(subject), None)
