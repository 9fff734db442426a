"""Looks whether an open application is well. It reads the store, and remembers only since when segments are nobody's."""

from __future__ import annotations

import asyncio

from ensue.app.health import Health, HealthPart
from ensue.consumers.lease import LEASE_SECONDS
from ensue.consumers.node import Node as Consumers
from ensue.consumers.ownership import Ownership, owning
from ensue.errors import EnsueError
from ensue.store.base import Consumer, Store
from ensue.store.nodes import living
from ensue.world import World

__all__ = ["Checkup"]

STORE_SECONDS = 3.0
"""A store that does not answer for so long is not reached. An answer that comes later is no news to anybody who waits."""


class Checkup:
    """Of one application while it is open. Asked seldom, by those who watch the process; asking costs a few short readings."""

    def __init__(self, store: Store, world: World) -> None:
        self._store = store
        self._world = world
        self._unowned_since: dict[str, float] = {}

    async def look(self, state: str, failure: BaseException | None, node: Consumers | None) -> Health:
        """`state` is "running", or what the application does instead; `failure` what broke its consumers, `node` those that
        run here, if any do."""
        broken = f"{type(failure).__name__}: {failure}" if failure is not None else ""
        parts = [HealthPart(name="writer", ok=not broken, said=broken or "writes", vital=True)]
        if node is not None:
            parts.append(self._lease(node))
        parts.append(HealthPart(name="application", ok=state == "running", said=state))
        try:
            async with asyncio.timeout(STORE_SECONDS):
                found = await self._looked_up(node)
        except TimeoutError:
            found = [HealthPart(name="store", ok=False, said=f"does not answer within {STORE_SECONDS:g} s")]
        except EnsueError as error:
            found = [HealthPart(name="store", ok=False, said=f"{type(error).__name__}: {error}")]
        return Health(parts=(*parts, *found))

    def _lease(self, node: Consumers) -> HealthPart:
        held, left = node.lease.held, node.lease.seconds_left
        said = f"held for {left:.1f} s more" if held else f"ran out {-left:.1f} s ago"
        # Not vital: a server that is gone ends the leases of all, and they go on by themselves when it is back.
        return HealthPart(name="lease", ok=held, said=said)

    async def _looked_up(self, node: Consumers | None) -> list[HealthPart]:
        """What the store says, and whether it does."""
        rows = {row.id: row for row in await self._store.consumers()}
        parts = [HealthPart(name="store", ok=True, said="answers")]
        runners = tuple(node.runners) if node is not None else ()  # views add some while we look
        standings = [await self._store.standing(runner.consumer.id) for runner in runners]
        nodes = living(await self._store.nodes(), self._world.now())
        for runner, standing in zip(runners, standings, strict=True):
            row = rows.get(runner.consumer.id, runner.consumer)
            ok, said = self._consumer(row, runner.standing_by, owning(row, standing, nodes))
            parts.append(HealthPart(name=f"consumer {row.name}", ok=ok, said=said))
        return parts

    def _consumer(self, row: Consumer, standing_by: str | None, spread: Ownership) -> tuple[bool, str]:
        nobody = len(spread.unowned)
        if not nobody:
            self._unowned_since.pop(row.name, None)
        since = self._unowned_since.setdefault(row.name, self._world.monotonic()) if nobody else 0.0
        if standing_by is not None:
            return False, f"stands by: {standing_by}"
        if row.status == "tripped":
            return False, f"has tripped: {row.reason or 'no reason is known'}"
        if row.status != "active":
            return True, f"is {row.status}: {row.reason or 'by an operator'}"
        if nobody:
            seconds = self._world.monotonic() - since
            said = f"nobody owns {nobody} of {row.segments} segments, for {seconds:.0f} s at least"
            return seconds <= LEASE_SECONDS, said
        processes = len(spread.owners)
        return True, "is run" if processes == 1 else f"is run by {processes} processes"
