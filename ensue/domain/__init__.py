"""What is decided and what is shown: states, deciders and views, as folds over events.

    class Account(State, key="account_id"):
        balance: Decimal = Decimal(0)

        def evolve(self, event: Deposited | Withdrawn) -> Self: ...

    @bank.command
    def withdraw(command: Withdraw, account: Account) -> Withdrawn: ...

Their typed surface only: declaring them costs nothing, registering them raises `NotYetAvailable` in this version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar, dataclass_transform

import msgspec

from ensue.consumers.handler import Declared
from ensue.events.message import Command, Event

__all__ = ["Decider", "FoldMeta", "Of", "SqlView", "State", "View"]

S = TypeVar("S")
C = TypeVar("C", bound=Command[Any])
E = TypeVar("E", bound=Event)
F = TypeVar("F", bound="FoldMeta")


class FoldMeta(msgspec.StructMeta):
    """Takes the keywords of a state or view class."""

    def __new__(
        mcls: type[F],
        cls_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        key: str | None = None,
        table: str | None = None,
        index: tuple[str, ...] = (),
        kw_only: bool = True,
    ) -> F:
        return super().__new__(mcls, cls_name, bases, namespace, kw_only=kw_only)


@dataclass_transform(kw_only_default=True, frozen_default=False, field_specifiers=(msgspec.field,))
class State(msgspec.Struct, Declared, kw_only=True, metaclass=FoldMeta):
    """What a decision looks at. Defaults are the initial state; `evolve(self, event) -> Self` is what follows, and its
    annotation says which events are read. `key` is the field of the command that says whose state it is."""

    __ensue_declared__ = "states"


@dataclass_transform(kw_only_default=True, frozen_default=False, field_specifiers=(msgspec.field,))
class View(msgspec.Struct, Declared, kw_only=True, metaclass=FoldMeta):
    """A row of a table kept from events. `evolve(self, event) -> Self | None`; None deletes the row. `key` is the row's
    key, `table` its table's name, `index` the columns it is also found by."""

    __ensue_declared__ = "views"


class Of:
    """`source: Annotated[Account, Of("source")]`: load this state by another field of the message."""

    def __init__(self, field: str, /) -> None:
        self.field = field


class Decider(Generic[S, C, E]):
    """A decider as three pure functions: `initial()`, `evolve(state, event)`, `decide(state, command)`."""

    def __init__(
        self,
        *,
        key: str,
        initial: Callable[[], S],
        evolve: Callable[[S, E], S],
        decide: Callable[[S, C], E | Iterable[E]],
    ) -> None:
        self.key = key
        self.initial = initial
        self.evolve = evolve
        self.decide = decide


class SqlView(Protocol):
    """A view written as a function on rows: `def daily(event: OrderPlaced, tx: Transaction) -> None`."""

    def __call__(self, event: Any, tx: Any, /) -> None: ...
