"""Which operator finds the matches of a pattern."""

from __future__ import annotations

from ensue.patterns.definition import Definition
from ensue.patterns.engine import Engine
from ensue.patterns.operator import Operator

__all__ = ["operator_of"]


def operator_of(definition: Definition, *, timeouts: bool = False) -> Operator:
    """An operator for this pattern. `timeouts`: it also gives beginnings that find no end in time, as `Expired`."""
    return Engine(definition, timeouts=timeouts)
