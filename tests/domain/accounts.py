"""Events and views of a small bank for the tests of views, and what the rows must be: a fold in memory, written plainly."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Self
from uuid import UUID

import msgspec

from ensue import Event, View

__all__ = [
    "Balance",
    "Closed",
    "Daily",
    "Moved",
    "Noted",
    "Opened",
    "Profile",
    "expected",
    "keys_of",
    "some_events",
]


class Kind(Enum):
    PRIVATE = "private"
    SHARED = "shared"


class Address(msgspec.Struct, frozen=True):
    street: str
    codes: tuple[int, ...] = ()


class Opened(Event, key="account_id"):
    account_id: str
    owner: str
    at: datetime
    limit: Decimal
    kind: Kind = Kind.PRIVATE
    address: Address | None = None


class Noted(Event, key="account_id"):
    account_id: str
    note: str | None
    weight: float
    day: date
    seal: UUID


class Moved(Event, key="move_id", tags={"source": "account_id", "target": "account_id"}):
    move_id: str
    source: str
    target: str
    amount: Decimal


class Closed(Event, key="account_id"):
    account_id: str


class Balance(View, key="account_id", table="balance", index=("owner",)):
    """Touched by events of two accounts: one order for all."""

    account_id: str
    owner: str = ""
    balance: Decimal = Decimal(0)
    moves: int = 0
    last: str | None = None

    def evolve(self, event: Opened | Moved | Closed) -> Self | None:
        if isinstance(event, Closed):
            return None
        if isinstance(event, Opened):
            self.owner = event.owner
        elif event.source != event.target:
            self.balance += event.amount if event.target == self.account_id else -event.amount
            self.moves += 1
            self.last = event.move_id
        return self


class Profile(View, key="account_id"):
    """A column of each kind; ordered by account."""

    account_id: str
    since: datetime | None = None
    limit: Decimal | None = None
    kind: Kind = Kind.SHARED
    address: Address | None = None
    notes: list[str] = msgspec.field(default_factory=list)
    by_day: dict[str, float] = msgspec.field(default_factory=dict)
    weight: float = 0.0
    heavy: bool = False
    day: date | None = None
    seal: UUID | None = None
    raw: bytes = b""
    wait: timedelta = timedelta()
    local: Annotated[datetime, msgspec.Meta(tz=False)] | None = None

    def evolve(self, event: Opened | Noted | Closed) -> Self | None:
        match event:
            case Closed():
                return None
            case Opened():
                self.since, self.limit, self.kind, self.address = event.at, event.limit, event.kind, event.address
                self.local = event.at.replace(tzinfo=None)
            case Noted():
                self.notes = [*self.notes, event.note or "-"][-3:]
                self.by_day = {**self.by_day, event.day.isoformat(): event.weight}
                self.weight += event.weight
                self.heavy = self.weight > 100
                self.day, self.seal = event.day, event.seal
                self.raw += b"\0\xff"
                self.wait += timedelta(seconds=1, microseconds=5)
        return self


class Daily(View, key=("account_id", "day")):
    """A key of two fields, one of which is no tag."""

    account_id: str
    day: date
    notes: int = 0

    def evolve(self, event: Noted) -> Self:
        self.notes += 1
        return self


def keys_of(view: type[View], event: Event) -> list[tuple[Any, ...]]:
    """What the keys of the rows are, said apart from the code that is tested."""
    if isinstance(event, Moved):
        return [(event.source,), (event.target,)][: 1 if event.source == event.target else 2]
    if view is Daily:
        assert isinstance(event, Noted)
        return [(event.account_id, event.day)]
    return [(getattr(event, "account_id"),)]  # noqa: B009


_READ: dict[type[View], tuple[type[Event], ...]] = {
    Balance: (Opened, Moved, Closed),
    Profile: (Opened, Noted, Closed),
    Daily: (Noted,),
}


def expected(view: type[View], events: Iterable[Event]) -> list[View]:
    """The rows that follow from these events, by key."""
    rows: dict[tuple[Any, ...], View] = {}
    fields = ("account_id", "day") if view is Daily else ("account_id",)
    evolve: Callable[[Any, Any], View | None] = getattr(view, "evolve")  # noqa: B009
    for event in events:
        if not isinstance(event, _READ[view]):
            continue
        for key in keys_of(view, event):
            before = rows.pop(key, None) or view(**dict(zip(fields, key, strict=True)))
            after = evolve(before, event)
            if after is not None:
                rows[key] = after
    return [rows[key] for key in sorted(rows)]


def some_events(seed: int, count: int, *, accounts: int = 12) -> Sequence[Event]:
    """Events as chance has them, the same for the same seed."""
    chance = random.Random(seed)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    found: list[Event] = []
    for number in range(count):
        account, other = (f"a{chance.randrange(accounts)}" for _ in range(2))
        match chance.randrange(10):
            case 0 | 1:
                address = (
                    Address("high street “1”", tuple(range(chance.randrange(3)))) if chance.random() < 0.5 else None
                )
                found.append(
                    Opened(
                        account_id=account,
                        owner=f"o'{chance.randrange(4)}\"",
                        at=start + timedelta(microseconds=chance.randrange(10**12)),
                        limit=Decimal(chance.randrange(10**8)).scaleb(-chance.randrange(6)),
                        kind=chance.choice(list(Kind)),
                        address=address,
                    )
                )
            case 2:
                found.append(Closed(account_id=account))
            case 3 | 4 | 5:
                found.append(
                    Noted(
                        account_id=account,
                        note=chance.choice([None, "", "naïve ☃", "x" * 5000]),
                        weight=chance.random() * 40,
                        day=date(2026, 3, 1 + chance.randrange(5)),
                        seal=UUID(int=chance.getrandbits(128)),
                    )
                )
            case _:
                found.append(
                    Moved(
                        move_id=f"m{number}",
                        source=account,
                        target=other,
                        amount=Decimal(chance.randrange(10**6)).scaleb(-2),
                    )
                )
    return found
