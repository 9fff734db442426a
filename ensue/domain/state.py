"""States: what a decision looks at. A class that folds events, or three plain functions."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, dataclass_transform

import msgspec

from ensue.consumers.handler import Declared
from ensue.domain.fold import FoldMeta, Key
from ensue.events.message import Command, Event

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
    """`source: Annotated[Account, Of("source")]`: load this state by other fields of the message than its key's."""

    def __init__(self, *fields: str) -> None:
        self.fields = fields


class Decider(Generic[S, C, E]):
    """A decider as three pure functions: `initial()`, `evolve(state, event)`, `decide(state, command)`.

    Their annotations say which events and commands they are for; a union stands for several. `key` is as for a `State`.
    """

    def __init__(
        self,
        *,
        key: Key,
        initial: Callable[[], S],
        evolve: Callable[[S, E], S],
        decide: Callable[[S, C], E | Iterable[E]],
    ) -> None:
        self.key = key
        self.initial = initial
        self.evolve = evolve
        self.decide = decide


def state_in(hint: Any) -> tuple[type[State], tuple[str, ...] | None] | None:
    """The state that a parameter is annotated with, and the fields it is loaded by if the annotation names them."""
    fields: tuple[str, ...] | None = None
    if typing.get_origin(hint) is typing.Annotated:
        hint, *said = typing.get_args(hint)
        fields = next((one.fields for one in said if isinstance(one, Of)), None)
    if isinstance(hint, type) and issubclass(hint, State):
        return hint, fields
    return None
