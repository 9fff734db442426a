"""What is noticed: patterns over several events of one key, and windows of time.

    class TestedThenUsed(Pattern, within=minutes(10)):
        probe = one(Payment, lambda p: p.amount < 2)
        large = several(Payment, lambda p: p.amount > 200, times=3)

    @fraud.on
    def suspect(match: TestedThenUsed) -> FraudSuspected: ...

A match and a closed window are handled like an event, with the same order, retries and dead letters. Conditions and values are
plain typed functions, which must compute the same from the same.
"""

from __future__ import annotations

from ensue.patterns.aggregates import Aggregate, count, distinct, first, largest, last, smallest, total
from ensue.patterns.explained.explaining import explain
from ensue.patterns.explained.reasons import why, why_not
from ensue.patterns.finding import find, timed_out
from ensue.patterns.history.json_lines import find_in_json
from ensue.patterns.joins import Join, left, right
from ensue.patterns.language import (
    Late,
    Pattern,
    Step,
    TimedOut,
    Withdrawn,
    absent,
    all_of,
    either,
    group,
    one,
    optional,
    several,
    to_first,
    to_last,
)
from ensue.patterns.windows import Window

__all__ = [
    "Aggregate",
    "Join",
    "Late",
    "Pattern",
    "Step",
    "TimedOut",
    "Window",
    "Withdrawn",
    "absent",
    "all_of",
    "count",
    "distinct",
    "either",
    "explain",
    "find",
    "find_in_json",
    "first",
    "group",
    "largest",
    "last",
    "left",
    "one",
    "optional",
    "right",
    "several",
    "smallest",
    "timed_out",
    "to_first",
    "to_last",
    "total",
    "why",
    "why_not",
]
