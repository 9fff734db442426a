"""The consumer that keeps a version behind the position where its building ended: one event after another, in the commit itself."""

from __future__ import annotations

from typing import Any

from ensue.consumers.handler import HandlerDefinition, Parameter, Wants
from ensue.consumers.handling import Handling, Scope
from ensue.consumers.policy import Retry
from ensue.consumers.transaction import Transaction
from ensue.domain.views.reading import Reading
from ensue.domain.views.registry import Version, consumer_name
from ensue.domain.views.table import Table
from ensue.events.recorded import Recorded
from ensue.events.registry import Registry
from ensue.store.base import SqlTransaction
from ensue.world import World

__all__ = ["ViewHandling"]

CONCURRENCY = 1000
RETRY = Retry()
"""For what the database raises, which may pass."""
DEATHS = Retry(attempts=25)
"""How often a process may die at an event before it is called the event's fault: `evolve` calls nobody, so it rarely is."""


class ViewHandling(Handling):
    """The handling of a version's consumer. Its effects are rows; it emits nothing, and calls nobody."""

    def __init__(
        self, reading: Reading, version: Version, table: Table, registry: Registry, world: World, scope: Scope
    ) -> None:
        self._reading = reading
        self._table = table
        self._final: BaseException | None = None
        definition = HandlerDefinition(
            name=consumer_name(version.name, version.number),
            function=self._keep,
            events=reading.covered,
            recorded=True,
            parameters=(Parameter("tx", Wants.TRANSACTION),),
            emits=(),
            is_async=False,
            inside=True,
            pure=False,
            key=reading.key_tag,
            retry=None,
            timeout=None,
            concurrency=CONCURRENCY,
            start=None,
        )
        super().__init__(definition, registry, world, scope, retry=RETRY)
        self.retry_of_deaths = DEATHS

    def policy(self, error: BaseException) -> Retry:
        """What evolve raises it will raise again: its key is parked at once. What the database raises may pass."""
        return Retry.never if error is self._final else super().policy(error)

    def _keep(self, recorded: Recorded[Any], tx: Transaction) -> None:
        sql: SqlTransaction = tx._sql
        table = self._table
        for key in self._keys(recorded):
            before = table.load(sql, key)
            there = before is not None
            try:
                row = self._reading.follow(before, key, recorded)
                values = table.values(row) if row is not None else None
            except Exception as error:
                self._final = error
                raise
            if values is not None:
                table.put(sql, [values])
            elif there:
                table.remove(sql, [key])

    def _keys(self, recorded: Recorded[Any]) -> Any:
        try:
            return self._reading.keys(recorded)
        except Exception as error:
            self._final = error
            raise
