"""Which operator finds the matches of a pattern."""

from __future__ import annotations

from ensue.patterns.compiled.compiler import NoPlaces, compiled
from ensue.patterns.definition import Definition
from ensue.patterns.operator import Operator
from ensue.patterns.searching.corrections import Corrections
from ensue.patterns.searching.engine import Engine
from ensue.patterns.searching.flink_semantics import FlinkEngine

__all__ = ["operator_of"]


def operator_of(definition: Definition, *, timeouts: bool = False) -> Operator:
    """An operator for this pattern: compiled where it is of the kind that is, else the general engine; both give the same.
    `timeouts`: it also gives beginnings that find no end in time, as `Expired`. With `lateness` it is `Correcting`."""
    if definition.semantics == "flink":
        return FlinkEngine(definition, timeouts=timeouts)
    if definition.lateness:
        return Corrections(definition, timeouts=timeouts)
    try:
        return compiled(definition, timeouts=timeouts)
    except NoPlaces:
        return Engine(definition, timeouts=timeouts)
