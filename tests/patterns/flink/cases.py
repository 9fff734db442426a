"""Portable patterns over four small event types, and random streams of these."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

from ensue.events.message import Event, seconds
from ensue.patterns import (
    Pattern,
    absent,
    all_of,
    either,
    largest,
    one,
    optional,
    several,
    smallest,
    to_first,
    to_last,
    total,
)

__all__ = ["PATTERNS", "A", "B", "C", "D", "stream"]


class A(Event, key="who"):
    who: str
    x: int = 0
    ok: bool = True


class B(Event, key="who"):
    who: str
    x: int = 0
    amount: float = 0.0
    price: Decimal = Decimal(0)


class C(Event, key="who"):
    who: str
    x: int = 0
    place: str | None = None


class D(Event, key="who"):
    who: str
    x: int = 0


START = 1_767_225_600_000_000
"""Microseconds since 1970. Joins of Flink are not exact in the first milliseconds of 1970."""


def stream(chance: random.Random, who: str, count: int, types: str = "ABCD") -> Iterator[tuple[int, Event]]:
    """Random events of one key with their times in microseconds, some of which are equal, or hardly apart."""
    time = START + chance.randrange(2_000_000)
    for _ in range(count):
        time += chance.choice((0, 1, 400, 999, 1000, 300_000, 700_000, 1_000_000, 2_500_000))
        yield time, _event(chance, who, chance.choice(types))


def _event(chance: random.Random, who: str, kind: str) -> Event:
    x = chance.randrange(4)
    match kind:
        case "A":
            return A(who=who, x=x, ok=chance.random() < 0.5)
        case "B":
            price = Decimal(chance.randrange(5)) / 4
            return B(who=who, x=x, amount=chance.choice((0.1, 0.7, 1e16, 3.0)), price=price)
        case "C":
            return C(who=who, x=x, place=chance.choice((None, "here", "there's")))
        case _:
            return D(who=who, x=x)


PATTERNS: list[type[Pattern]] = []
"""All of which have a form in Flink SQL."""


def _portable(pattern: type[Pattern]) -> type[Pattern]:
    PATTERNS.append(pattern)
    return pattern


@_portable
class Followed(Pattern, within=seconds(4)):
    a = one(A)
    b = one(B)


@_portable
class Compared(Pattern, within=seconds(6)):
    a = one(A)
    b = one(B)
    c = one(C)

    @b.where
    def larger(self, b: B) -> bool:
        return b.x > self.a.x

    @c.where
    def between(self, c: C) -> bool:
        return self.a.x <= c.x < self.b.x + 1


@_portable
class Between(Pattern, within=seconds(6)):
    a = one(A)
    d = absent(D, lambda e: e.x > 1)
    b = one(B)
    c = one(C)


@_portable
class NotTheNext(Pattern, within=seconds(6)):
    a = one(A)
    d = absent(D, contiguity="strict")
    b = one(B)


@_portable
class FromTheFirst(Pattern, within=seconds(6), skip=to_first("a")):
    a = one(A)
    b = one(B)


@_portable
class NotSoon(Pattern, within=seconds(6)):
    a = one(A)
    d = absent(D, within=seconds(1))
    c = absent(C, contiguity="strict", within=seconds(1))
    b = one(B)


@_portable
class Unpaid(Pattern):
    a = one(A)
    b = absent(B, within=seconds(2))


@_portable
class Soon(Pattern, within=timedelta(microseconds=1400)):
    """Shorter than what Flink tells apart: a beginning whose time is over in the midst of a millisecond must not hold back others."""

    a = one(A)
    b = one(B)
    d = absent(D)


@_portable
class UnpaidSum(Pattern, within=seconds(5)):
    a = one(A)
    c = one(C)
    b = absent(B, within=seconds(2))
    d = absent(D, within=seconds(2))

    @b.where
    def enough(self, b: B) -> bool:
        return b.x >= self.a.x + self.c.x


@_portable
class Steps(Pattern):
    a = one(A)
    b = one(B, within=seconds(1))
    c = one(C, within=seconds(2))


@_portable
class Times(Pattern, within=seconds(9)):
    b = several(B, times=3)
    c = one(C)

    @c.where
    def sums(self, c: C) -> bool:
        return total(self.b, lambda e: e.amount) > 1.4 and largest(self.b, lambda e: e.x) >= c.x


@_portable
class Rising(Pattern, within=seconds(9)):
    b = several(B, times=3)

    @b.where
    def rises(self, b: B) -> bool:
        return not self.b or b.x >= self.b[-1].x


@_portable
class Many(Pattern, within=seconds(9)):
    a = one(A)
    b = several(B, times=(2, None))
    c = one(C)


@_portable
class ManySummed(Pattern, within=seconds(9)):
    b = several(B, lambda e: e.x < 3, times=(2, None))
    c = one(C)

    @c.where
    def sums(self, c: C) -> bool:
        return total(self.b, lambda e: e.amount) > 3 and len(self.b) >= c.x and self.b[-1].x >= self.b[0].x


@_portable
class ManyUntil(Pattern, within=seconds(9)):
    a = one(A)
    b = several(B, times=(1, None), until=lambda e: e.x == 3)
    c = one(C)


@_portable
class RangedSame(Pattern, within=seconds(9)):
    a = one(A)
    b = several(B, times=(1, 3))
    c = one(B, lambda e: e.x > 1)

    @c.where
    def price(self, c: B) -> bool:
        return c.price > smallest(self.b, lambda e: e.price)


@_portable
class MaybeTwo(Pattern, within=seconds(9)):
    a = one(A)
    b = optional(B)
    c = optional(C, lambda e: e.x > 0)
    d = one(D)

    @d.where
    def seen(self, d: D) -> bool:
        return d.x != 1


@_portable
class MaybeRead(Pattern, within=seconds(9)):
    a = one(A)
    b = optional(B)
    c = one(C)

    @c.where
    def seen(self, c: C) -> bool:
        return bool(self.b and self.b.x <= c.x) or c.x == 0


@_portable
class Run(Pattern, within=seconds(12)):
    b = several(B, times=(2, None), inner="strict")
    c = one(C)

    @b.where
    def rises(self, b: B) -> bool:
        return not self.b or b.x >= self.b[-1].x


@_portable
class RunThenFall(Pattern, within=seconds(12)):
    b = several(B, times=(3, None), inner="strict")
    low = one(B, contiguity="strict")

    @b.where
    def rises(self, b: B) -> bool:
        return not self.b or b.x >= self.b[-1].x

    @low.where
    def falls(self, low: B) -> bool:
        return low.x < self.b[-1].x and total(self.b, lambda e: e.x) > low.x


@_portable
class StrictAfterMany(Pattern, within=seconds(9)):
    b = several(B, times=(2, None))
    c = one(C, contiguity="strict")


@_portable
class Either(Pattern, within=seconds(6)):
    a = one(A)
    end = either(one(B, lambda e: e.x > 1), one(C))
    d = one(D)


@_portable
class InAnyOrder(Pattern, within=seconds(6)):
    a = one(A)
    both = all_of(one(B, lambda e: e.x > 0), one(C), one(D))


@_portable
class Checked(Pattern, within=seconds(6)):
    a = one(A)
    b = one(B)

    def where(self) -> bool:
        return self.a.x + self.b.x > 2 and self.a.ok


@_portable
class PastLast(Pattern, within=seconds(6), skip="past_last"):
    a = one(A)
    b = one(B)
    c = one(C)


@_portable
class ToFirst(Pattern, within=seconds(6), skip=to_first("b")):
    a = one(A)
    b = several(B, times=2)
    c = one(C)


@_portable
class ToLast(Pattern, within=seconds(6), skip=to_last("b")):
    a = one(A)
    b = several(B, times=2)
    c = one(C)


@_portable
class AllOfThem(Pattern, within=seconds(6), skip="none"):
    a = one(A)
    b = one(B)
    c = one(C)


@_portable
class Places(Pattern, within=seconds(6)):
    c = one(C, lambda e: e.place != None and e.place > "here")  # noqa: E711
    other = one(C, lambda e: e.place != "here")

    @other.where
    def differs(self, other: C) -> bool:
        return other.place != self.c.place


@_portable
class Arithmetic(Pattern, within=seconds(6)):
    a = one(A, lambda e: (e.x * 2 + 1) % 3 == 1 or -e.x // 2 < -1 or e.x / 2 == 0.5)
    b = one(
        B, lambda e: abs(e.price - 1) >= 0 and min(e.x, 2) == e.x and not (e.amount > 1 and e.price < Decimal("0.5"))
    )


@_portable
class Single(Pattern, within=seconds(6)):
    a = one(A, lambda e: e.ok)
