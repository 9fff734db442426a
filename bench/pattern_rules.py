"""The patterns of `make bench-patterns`, as a user of Ensue writes them. bench/java says the same for Flink CEP and Esper."""

from __future__ import annotations

from ensue import Event, minutes, seconds
from ensue.patterns import Pattern, Window, absent, one, several, total

__all__ = [
    "PATTERNS",
    "Absence",
    "CardUsed",
    "Count",
    "Dense",
    "Kleene",
    "Pairs",
    "Seq2",
    "Sums",
    "pair",
]


class CardUsed(Event, key="card"):
    card: str
    kind: int
    value: float
    time: int
    """In milliseconds: what an operator goes by is given beside the event, as a log has it."""


class Seq2(Pattern, within=minutes(30)):
    a = one(CardUsed, lambda used: used.kind == 1)
    b = one(CardUsed, lambda used: used.kind == 2)


class Count(Pattern, within=minutes(5)):
    failed = several(CardUsed, lambda used: used.kind == 1, times=5)
    ok = one(CardUsed, lambda used: used.kind == 0)


class Absence(Pattern, within=minutes(15)):
    placed = one(CardUsed, lambda used: used.kind == 0)
    paid = absent(CardUsed, lambda used: used.kind == 1)


class Kleene(Pattern, within=minutes(1), skip="past_last"):
    low = one(CardUsed)
    rising = several(CardUsed, times=(2, None), contiguity="strict", inner="strict")
    fall = one(CardUsed, contiguity="strict")

    @rising.where
    def higher(self, used: CardUsed) -> bool:
        return used.value > (self.rising[-1].value if self.rising else self.low.value)

    @fall.where
    def lower(self, used: CardUsed) -> bool:
        return used.value <= self.rising[-1].value and total(self.rising, lambda one: one.value) > 150


class Dense(Pattern, within=minutes(1)):
    a = one(CardUsed, lambda used: used.kind == 0)
    b = one(CardUsed, lambda used: used.kind == 1)
    c = one(CardUsed, lambda used: used.kind == 2)
    d = one(CardUsed, lambda used: used.kind == 3)


class Pairs(Pattern, within=seconds(10), skip="none"):
    a = one(CardUsed)
    b = one(CardUsed, contiguity="any")


def pair(first: int) -> type[Pattern]:
    """One of many like `Seq2`: this kind, then the next."""

    class Pair(Pattern, within=minutes(30), name=f"Pair{first}"):
        a = one(CardUsed, lambda used: used.kind == first)
        b = one(CardUsed, lambda used: used.kind == first + 1)

    return Pair


class Sums(Window, size=minutes(5)):
    sum = total(CardUsed, lambda used: used.value)


PATTERNS: dict[str, type[Pattern]] = {
    "seq2": Seq2,
    "count": Count,
    "absence": Absence,
    "kleene": Kleene,
    "dense": Dense,
    "pairs": Pairs,
}
"""By the name of their events in bench/pattern_data.py."""
