"""Signals as records of the standard library's logging, under the logger `ensue`.

Every record carries the signal's fields as `extra` under `ensue`, so that a structured formatter has the facts and not
only the sentence.
"""

from __future__ import annotations

import logging

import msgspec

from ensue.observe.signals import (
    AttemptFailed,
    ConsumerStandsBy,
    ConsumerTripped,
    EventParked,
    HandlerStuck,
    SegmentsLost,
    Signal,
    WriterTrouble,
)

__all__ = ["log_signal"]

_logger = logging.getLogger("ensue")
_ERRORS = (EventParked, ConsumerTripped, ConsumerStandsBy)
_WARNINGS = (AttemptFailed, HandlerStuck, SegmentsLost, WriterTrouble)


def log_signal(signal: Signal) -> None:
    """Log one signal: what needs a person as error, what heals by itself as warning, the rest as info."""
    level = logging.ERROR if isinstance(signal, _ERRORS) else logging.INFO
    level = logging.WARNING if isinstance(signal, _WARNINGS) else level
    if not _logger.isEnabledFor(level):
        return
    facts = msgspec.structs.asdict(signal)
    words = " ".join(f"{name}={value}" for name, value in facts.items())
    _logger.log(level, "%s %s", type(signal).__name__, words, extra={"ensue": facts})
