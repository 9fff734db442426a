"""Signals as records of the standard library's logging, under the logger `ensue`.

Every record carries the signal's fields as `extra` under `ensue`, so that a structured formatter has the facts and not
only the sentence.
"""

from __future__ import annotations

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

__all__ = ["log_signal"]

_ERRORS = (EventParked, ConsumerFailed, ConsumerTripped, ConsumerStandsBy)
_EACH_CALL = (CommandDecided, CommandRefused)
_WARNINGS = (AttemptFailed, ChannelLost, ChannelRepaired, HandlerStuck, SegmentsLost, SnapshotsLost, WriterTrouble)


def log_signal(signal: Signal) -> None:
    """Log one signal: what needs a person as error, what heals by itself as warning, what comes with each command as debug,
    the rest as info."""
    import logging  # a seventh of the time of `import ensue`, and not every process logs

    logger = logging.getLogger("ensue")
    level = logging.ERROR if isinstance(signal, _ERRORS) else logging.INFO
    level = logging.WARNING if isinstance(signal, _WARNINGS) else level
    level = logging.DEBUG if isinstance(signal, _EACH_CALL) else level
    if not logger.isEnabledFor(level):
        return
    facts = msgspec.structs.asdict(signal)
    words = " ".join(f"{name}={value!r}" for name, value in facts.items())
    logger.log(level, "%s %s", type(signal).__name__, words, extra={"ensue": facts})
