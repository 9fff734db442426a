"""Signals as records of the standard library's logging, under the logger `ensue`.

Every record carries the signal's fields as `extra` under `ensue`, so that a structured formatter has the facts and not
only the sentence.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import msgspec

from ensue.observe.signals import (
    AttemptFailed,
    ChannelLost,
    ChannelRepaired,
    CommandDecided,
    CommandRefused,
    ConsumerFailed,
    ConsumerStandsBy,
    ConsumerTripped,
    EventParked,
    HandlerStuck,
    SegmentsLost,
    Signal,
    SnapshotsLost,
    WriterTrouble,
)

if TYPE_CHECKING:
    import logging

__all__ = ["log_signal"]

_ERRORS = (EventParked, ConsumerFailed, ConsumerTripped, ConsumerStandsBy)
_EACH_CALL = (CommandDecided, CommandRefused)
_WARNINGS = (AttemptFailed, ChannelLost, ChannelRepaired, HandlerStuck, SegmentsLost, SnapshotsLost, WriterTrouble)


@functools.cache
def _logger() -> logging.Logger:
    import logging

    return logging.getLogger("ensue")


def log_signal(signal: Signal) -> None:
    """Log one signal: what needs a person as error, what heals by itself as warning, what comes with each command as debug,
    the rest as info."""
    import logging  # a seventh of the time of `import ensue`, and not every process logs

    logger = _logger()
    if isinstance(signal, _EACH_CALL):
        level = logging.DEBUG
    elif isinstance(signal, _WARNINGS):
        level = logging.WARNING
    else:
        level = logging.ERROR if isinstance(signal, _ERRORS) else logging.INFO
    if not logger.isEnabledFor(level):
        return
    facts = msgspec.structs.asdict(signal)
    words = " ".join(f"{name}={value!r}" for name, value in facts.items())
    logger.log(level, "%s %s", type(signal).__name__, words, extra={"ensue": facts})
