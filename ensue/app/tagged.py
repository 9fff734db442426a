"""Tenants apart by tag: one log, and before its store one of two others.

`TenantStore` is what the application of one tenant sees. Every event that is written through it is the tenant's: its metadata say so,
its stream and tags are hashed with the tenant's name, so that two tenants' `order_id=o1` are two streams, and it carries a tag of
the tenant's. Every read asks for that tag besides, and for the tenant's hashes; so do conditions and versions. Nothing is passed on
that is not written here: what this class does not know, an application of a tenant cannot do.

`SharedStore` is what runs the handlers of all tenants. It writes only what belongs to a tenant: what a handler returns belongs to that
of the event which it handled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from ensue.errors import EnsueError, InvalidTenant, MissingCapability
from ensue.events.stored import Draft, Row, decode_meta, encode_meta, of_tenant, tenant_of, tenant_tag, with_tenant
from ensue.store.base import (
    Capabilities,
    Condition,
    Consumer,
    DeadLetter,
    Delivery,
    Emission,
    Expected,
    Lane,
    Node,
    Page,
    Request,
    Selection,
    Standing,
    Store,
    Term,
    WriterTransaction,
    Written,
)
from ensue.world import World

__all__ = ["SharedStore", "TenantStore"]

_NO_ROWS = (
    "tenants by tag share the tables of one database, and a statement would see those of all of them: answer from states and events, or "
    "give each tenant a database of its own"
)


def _refused(error: EnsueError) -> asyncio.Future[Written]:
    future: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


def _less(capabilities: Capabilities) -> Capabilities:
    return msgspec.structs.replace(capabilities, sql=False, own_transactions=False)


def _belonging(draft: Draft, tenant: str) -> Draft:
    """The draft as the log holds it: of this tenant, whatever it says of tenants itself."""
    return msgspec.structs.replace(
        draft,
        stream=of_tenant(draft.stream, tenant) if draft.stream is not None else None,
        tags=(*(of_tenant(tag, tenant) for tag in draft.tags), tenant_tag(tenant)),
        meta=encode_meta(with_tenant(decode_meta(draft.meta), tenant)),
    )


class SharedStore:
    """See the module. What it does not change is passed on: nobody but the machinery of the application sees it."""

    def __init__(self, store: Store) -> None:
        self.inner = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @property
    def capabilities(self) -> Capabilities:
        return _less(self.inner.capabilities)

    def of(self, tenant: str) -> Store:
        """What the application of a tenant sees."""
        return TenantStore(self.inner, tenant)

    def write(self, request: Request) -> asyncio.Future[Written]:
        """See `Log.write`. Errors besides: `InvalidTenant` for an event of no tenant."""
        try:
            events = [_inherited(draft) for draft in request.events]
        except InvalidTenant as error:
            return _refused(error)
        return self.inner.write(
            msgspec.structs.replace(request, events=events, apply=[_sealed(one) for one in request.apply])
        )


def _inherited(draft: Draft) -> Draft:
    tenant = tenant_of(decode_meta(draft.meta))
    if tenant is None:
        raise InvalidTenant(
            f"a {draft.type_name} would be stored for no tenant: publish it through `async with app.tenant(name) as one:`"
        )
    return _belonging(draft, tenant)


def _sealed(function: Emission) -> Emission:
    return lambda sql: [_inherited(draft) for draft in function(sql)]


class TenantStore:
    """See the module. Opened and closed with the store behind it, which is open already."""

    def __init__(self, store: Store, tenant: str) -> None:
        self._store = store
        self._tenant = tenant
        self._tag = tenant_tag(tenant)
        self.capabilities = _less(store.capabilities)
        self.remote = store.remote
        self.log_id = store.log_id

    # ------------------------------------------------------------------------------------------------------- the tenant

    def selection(self, selection: Selection) -> Selection:
        """What of it is the tenant's."""
        terms = selection or (Term(),)
        return tuple(
            Term(term.types, (*(of_tenant(tag, self._tenant) for tag in term.tags), self._tag), term.root)
            for term in terms
        )

    def stream(self, stream: bytes) -> bytes:
        """How the log calls a stream of the tenant's."""
        return of_tenant(stream, self._tenant)

    # ---------------------------------------------------------------------------------------------------------- the log

    async def open(self, world: World) -> None:
        """See `Log.open`."""

    async def close(self) -> None:
        """See `Log.close`."""

    def write(self, request: Request) -> asyncio.Future[Written]:
        """See `Log.write`. Errors besides: `InvalidTenant` for what is done for all tenants."""
        if request.commit is not None or request.operation is not None:
            return _refused(
                InvalidTenant(
                    "handlers and dead letters are of all tenants: see to them with the application itself, or `ensue`"
                )
            )
        tenant = self._tenant
        return self._store.write(
            msgspec.structs.replace(
                request,
                events=[_belonging(draft, tenant) for draft in request.events],
                expected=tuple(Expected(self.stream(one.stream), one.version) for one in request.expected),
                conditions=tuple(Condition(self.selection(one.selection), one.after) for one in request.conditions),
                idempotency_key=of_tenant(request.idempotency_key, tenant) if request.idempotency_key else None,
                apply=[self._guarded(one) for one in request.apply],
            )
        )

    def _guarded(self, function: Emission) -> Emission:
        return lambda sql: [_belonging(draft, self._tenant) for draft in function(_Guarded(sql, self.selection))]

    async def room(self) -> None:
        """See `Log.room`."""
        await self._store.room()

    async def read(
        self, selection: Selection = (), *, after: int = 0, before: int | None = None, limit: int = 1000,
        backwards: bool = False,
    ) -> Page:  # fmt: skip
        """See `Log.read`."""
        return await self._store.read(
            self.selection(selection), after=after, before=before, limit=limit, backwards=backwards
        )

    def head(self) -> int:
        """See `Log.head`."""
        return self._store.head()

    async def changed(self, after: int) -> int:
        """See `Log.changed`."""
        return await self._store.changed(after)

    async def types(self) -> Mapping[int, tuple[str, int]]:
        """See `Log.types`."""
        return await self._store.types()

    def known_types(self) -> Mapping[int, tuple[str, int]]:
        """See `Log.known_types`."""
        return self._store.known_types()

    async def rename(self, name: str, former: Sequence[str]) -> None:
        """See `Log.rename`."""
        await self._store.rename(name, former)

    async def bury(self, positions: Sequence[int], tombstone: bytes) -> None:
        """See `Log.bury`. Errors: `InvalidTenant`."""
        raise InvalidTenant("archives are of all tenants")

    async def former_names(self) -> Mapping[str, str]:
        """See `Log.former_names`."""
        return await self._store.former_names()

    async def position_at(self, time: int) -> int:
        """See `Log.position_at`."""
        return await self._store.position_at(time)

    async def positions_of(self, lowest: bytes, highest: bytes, *, limit: int) -> list[int]:
        """See `Log.positions_of`."""
        found = await self._store.positions_of(lowest, highest, limit=limit)
        return [position for position in found if await self._is_ours(position)]

    async def _is_ours(self, position: int) -> bool:
        return bool((await self.read((), after=position - 1, before=position + 1, limit=1)).rows)

    # ------------------------------------------------------------------------------------------------------- consumers

    async def define(self, consumer: Consumer) -> Consumer:
        """See `Checkpoints.define`."""
        return await self._store.define(consumer)

    async def consumers(self) -> tuple[Consumer, ...]:
        """See `Checkpoints.consumers`."""
        return await self._store.consumers()

    async def set_status(self, consumer: int, status: str, reason: str | None) -> None:
        """See `Checkpoints.set_status`. Errors: `InvalidTenant`."""
        raise InvalidTenant("consumers are of all tenants")

    async def beat(self, node: Node) -> None:
        """See `Checkpoints.beat`. Errors: `InvalidTenant`."""
        raise InvalidTenant("handlers run for all tenants")

    async def claim(self, consumer: int, node: Node, *, now: int, most: int, held: Collection[int] = ()) -> Standing:
        """See `Checkpoints.claim`. Errors: `InvalidTenant`."""
        raise InvalidTenant("handlers run for all tenants")

    async def standing(self, consumer: int) -> Standing:
        """See `Checkpoints.standing`. What a lane of another tenant says is left out."""
        found = await self._store.standing(consumer)
        lanes: list[Lane] = []
        for lane in found.lanes:
            ours = await self._concerns(lane.key, lane.after)
            lanes.append(lane if ours else msgspec.structs.replace(lane, key_text="", error=None, edit=None))
        return Standing(found.progress, tuple(lanes))

    async def _concerns(self, key: bytes, after: int) -> bool:
        page = await self._store.read((Term(tags=(key, self._tag)),), after=after, limit=1)
        return bool(page.rows)

    async def nodes(self) -> tuple[Node, ...]:
        """See `Checkpoints.nodes`."""
        return await self._store.nodes()

    async def dead_letters(self, *, consumer: int | None = None, open_only: bool = True) -> tuple[DeadLetter, ...]:
        """See `Checkpoints.dead_letters`."""
        found = await self._store.dead_letters(consumer=consumer, open_only=open_only)
        return tuple([letter for letter in found if await self._is_ours(letter.position)])

    async def erase(self, tag: bytes, said: str) -> None:
        """See `Checkpoints.erase`."""
        await self._store.erase(of_tenant(tag, self._tenant), said)

    async def deliveries(self, positions: Sequence[int]) -> tuple[Delivery, ...]:
        """See `Checkpoints.deliveries`."""
        return await self._store.deliveries([position for position in positions if await self._is_ours(position)])


class _Guarded:
    """The writer's transaction, for functions of one tenant: they read its events, and no rows."""

    def __init__(self, sql: WriterTransaction, selection: Callable[[Selection], Selection]) -> None:
        self._sql = sql
        self._selection = selection

    @property
    def head(self) -> int:
        return self._sql.head

    @property
    def batch(self) -> object:
        # Beside that of the writer: what is decided for another tenant in the same batch must not be taken for ours.
        return getattr(self._sql, "batch", None), self._selection(())

    @property
    def types(self) -> Mapping[int, tuple[str, int]]:
        return self._sql.types

    def read(self, selection: Selection, *, after: int, limit: int) -> list[Row]:
        return self._sql.read(self._selection(selection), after=after, limit=limit)

    def later(self, sql: str, values: Sequence[object] = (), /) -> None:
        raise MissingCapability(_NO_ROWS)

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[object, ...]]:
        raise MissingCapability(_NO_ROWS)
