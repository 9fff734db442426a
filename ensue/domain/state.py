"""States: what a decision looks at. A class that folds events, or three plain functions."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, cast, dataclass_transform, overload

import msgspec

from ensue.consumers.handler import Declared
from ensue.domain.fold import FoldMeta, Key
from ensue.errors import DefinitionError
from ensue.events.message import Command, Event
from ensue.events.recorded import Criteria

__all__ = ["Decider", "Of", "State", "state_in"]

S = TypeVar("S")
C = TypeVar("C", bound=Command[Any])
E = TypeVar("E", bound=Event)


@dataclass_transform(kw_only_default=True, frozen_default=False, field_specifiers=(msgspec.field,))
class State(msgspec.Struct, Declared, kw_only=True, metaclass=FoldMeta):
    """What a decision looks at. Defaults are the initial state; `evolve(self, event) -> Self` is what follows, and its
    annotation says which events are read.

    `key` is the field of the command that says whose state it is, and the tag that those events carry; `{field: tag}` where they
    are called differently; several fields where events must carry all of these tags; without it, all events of these types.
    `evolve` may change the state it is called on and return it: nobody else holds that one.
    """

    __ensue_declared__ = "states"


class Of:
    """`source: Annotated[Account, Of("source")]`: load this state by other fields of the message than its key's.

    Or by any criteria that are made of the message: `Annotated[Places, Of(lambda c: Criteria(course_id=c.course_id) | …)]`. What
    its `evolve` reads among what matches is what the decision looks at, and what must not have come when it is stored.
    """

    @overload
    def __init__(self, *fields: str) -> None: ...
    @overload
    def __init__(self, criteria: Callable[[Any], Criteria], /) -> None: ...
    def __init__(self, *by: Any) -> None:
        self.criteria: Callable[[Any], Criteria] | None = None
        self.fields: tuple[str, ...] | None = None
        (first, *rest) = by or (None,)
        if not rest and callable(first):
            self.criteria = cast("Callable[[Any], Criteria]", first)
        elif by and all(isinstance(field, str) for field in by):
            self.fields = by
        else:
            raise DefinitionError(
                f"Of({', '.join(map(repr, by))}): name fields of the message, or give one function of it"
            )


class Decider(Generic[S, C, E]):
    """A decider as three pure functions: `initial()`, `evolve(state, event)`, `decide(state, command)`.

    Their annotations say which events and commands they are for; a union stands for several. `key` is as for a `State`; or
    `criteria`, made of the command, say it: any of several types and tags, `Criteria(a=…) | Criteria(b=…)`.
    """

    def __init__(
        self,
        *,
        key: Key = None,
        criteria: Callable[[C], Criteria] | None = None,
        initial: Callable[[], S],
        evolve: Callable[[S, E], S],
        decide: Callable[[S, C], E | Iterable[E]],
    ) -> None:
        if key is not None and criteria is not None:
            raise DefinitionError("a decider is found by its key or by criteria, not by both")
        self.key = key
        self.criteria = criteria
        self.initial = initial
        self.evolve = evolve
        self.decide = decide


def state_in(hint: Any) -> tuple[type[State], Of | None] | None:
    """The state that a parameter is annotated with, and what it is loaded by if the annotation says it."""
    by: Of | None = None
    if typing.get_origin(hint) is typing.Annotated:
        hint, *said = typing.get_args(hint)
        by = next((one for one in said if isinstance(one, Of)), None)
    if isinstance(hint, type) and issubclass(hint, State):
        return hint, by
    return None
