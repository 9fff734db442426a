"""How the tables of a log come to be what this version needs: in steps, each taken once, in order."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

__all__ = ["Step", "Upgrade"]


class Step(msgspec.Struct, frozen=True):
    """One change of the tables. `sql` is one or more statements; they and the record of the step are one transaction."""

    number: int
    title: str
    sql: str


class Upgrade(msgspec.Struct, frozen=True):
    """The schema that was found, 0 where there was no log, and the steps that were missing: they were taken, or would be."""

    found: int
    steps: Sequence[Step]
