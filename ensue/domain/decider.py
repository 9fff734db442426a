"""What a decider's functions say of its states."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

from ensue.consumers.handler import hints_of
from ensue.domain.fold import Fold, evolved, key_pairs
from ensue.domain.state import Decider

__all__ = ["fold_of_decider"]


def fold_of_decider(decider: Decider[Any, Any, Any], local_names: Mapping[str, Any]) -> Fold[Any]:
    """What a decider says of its states. Errors: `DefinitionError`."""
    name = str(getattr(decider.decide, "__qualname__", repr(decider.decide)))
    events, recorded = evolved(f"{name}: evolve", decider.evolve, local_names)
    return Fold(
        name=type(decider.initial()).__name__,
        initial=decider.initial,
        evolve=decider.evolve,
        events=events,
        kinds=_kinds(decider, local_names),
        key=key_pairs(name, decider.key),
        criteria=decider.criteria,
        recorded=recorded,
    )


def _kinds(decider: Decider[Any, Any, Any], local_names: Mapping[str, Any]) -> tuple[Any, ...]:
    """The classes that its states may have: that of the first one, and those that `evolve` says it returns."""
    hint = hints_of(decider.evolve, local_names).get("return")
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return tuple(
        dict.fromkeys((type(decider.initial()), *(typing.get_args(hint) if union else (hint,) if hint else ())))
    )
