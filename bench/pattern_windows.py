"""Our side of the row `windows`: `python -m bench.pattern_windows EVENTS ROUNDS`. As in bench/pattern_ours.py."""

from __future__ import annotations

import gc
import sys
import time

from bench.pattern_data import name_of_window
from bench.pattern_ours import batches, events_of, say
from bench.pattern_rules import Sums
from ensue.patterns.finding import END
from ensue.patterns.operator import Closed
from ensue.patterns.windowing.engine import window_operator

__all__ = ["main"]


def main(count: int, rounds: int) -> None:
    events, times = events_of("windows", count)
    for number in range(rounds + 1):
        gc.collect()
        operator = window_operator(Sums.__ensue_window__)
        began = time.perf_counter()
        closed = [one for batch in batches(events, times) for one in operator.take(batch)]
        closed += operator.advance(END)
        windows = [Sums.__ensue_closed__(one) for one in closed if isinstance(one, Closed)]
        seconds = time.perf_counter() - began
        names = [name_of_window(one.key, int(one.start.timestamp() * 1000), one.sum) for one in windows]
        say(number, count / seconds, names)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
