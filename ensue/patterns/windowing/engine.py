"""Which operator computes a window or join."""

from __future__ import annotations

from ensue.patterns.joins import JoinDefinition
from ensue.patterns.operator import Operator
from ensue.patterns.windowing.aligned import AlignedOperator
from ensue.patterns.windowing.events import SessionOperator, SlidingOperator
from ensue.patterns.windowing.joins import join_operator
from ensue.patterns.windows import WindowDefinition

__all__ = ["window_operator"]


def window_operator(definition: WindowDefinition | JoinDefinition) -> Operator:
    """A new operator of this window or join."""
    if isinstance(definition, JoinDefinition):
        return join_operator(definition)
    if definition.kind == "aligned":
        return AlignedOperator(definition)
    return SessionOperator(definition) if definition.kind == "session" else SlidingOperator(definition)
