"""Signals as records of the standard library's logging."""

from __future__ import annotations

import logging

import pytest

from ensue.observe.log import log_signal
from ensue.observe.signals import (
    AttemptFailed,
    ChannelConnected,
    ChannelLost,
    ChannelRepaired,
    CommandDecided,
    CommandRefused,
    ConsumerFailed,
    ConsumerResumed,
    ConsumerStandsBy,
    ConsumerTripped,
    EventParked,
    HandlerStuck,
    SegmentsClaimed,
    SegmentsLost,
    SegmentsReleased,
    Signal,
    SnapshotsLost,
    ViewBuilt,
    ViewShown,
    WriterTrouble,
)

ONE_OF_EACH: dict[int, list[Signal]] = {
    logging.ERROR: [
        EventParked(consumer="c", position=1, key="k", attempt=5, error="E"),
        ConsumerFailed(consumer="c", error="E"),
        ConsumerTripped(consumer="c", reason="R"),
        ConsumerStandsBy(consumer="c", reason="R"),
    ],
    logging.WARNING: [
        AttemptFailed(consumer="c", position=1, key="k", attempt=1, error="E"),
        HandlerStuck(consumer="c", position=1, seconds=3.0),
        SegmentsLost(consumer="c", segments=(1,), reason="R"),
        WriterTrouble(consumer="c", error="E", retry_in_seconds=1.0),
        ChannelLost(consumer="c", channel="orders", error="E", retry_in_seconds=1.0),
        ChannelRepaired(consumer="c", channel="orders", waiting=3),
        SnapshotsLost(consumer="c", attempted="write", error="E"),
    ],
    logging.INFO: [
        ConsumerResumed(consumer="c"),
        ChannelConnected(consumer="c", channel="orders"),
        SegmentsClaimed(consumer="c", segments=(1, 2)),
        SegmentsReleased(consumer="c", segments=(1, 2)),
        ViewBuilt(consumer="c", version=2, position=9, seconds=1.0, reason=None),
        ViewShown(consumer="c", version=2),
    ],
    logging.DEBUG: [
        CommandDecided(consumer="c", command="Pay", replayed=False, attempts=1, seconds=0.1),
        CommandRefused(consumer="c", command="Pay", refusal="Overdrawn", attempts=1, seconds=0.1),
    ],
}
PAIRS = [(level, signal) for level, signals in ONE_OF_EACH.items() for signal in signals]


@pytest.mark.parametrize(("level", "signal"), PAIRS, ids=[type(signal).__name__ for _, signal in PAIRS])
def test_each_signal_is_one_record_of_its_level_with_its_facts(
    level: int, signal: Signal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ensue")
    log_signal(signal)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("ensue", level)
    assert record.getMessage().startswith(f"{type(signal).__name__} consumer='c'")
    facts = vars(record)["ensue"]
    assert facts == {name: getattr(signal, name) for name in signal.__struct_fields__}


def test_every_signal_has_a_level() -> None:
    assert {type(signal) for _, signal in PAIRS} == set(Signal.__subclasses__())


def test_a_text_of_several_lines_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log_signal(EventParked(consumer="c", position=1, key="k", attempt=5, error="E\nERROR forged"))
    assert "\n" not in caplog.records[0].getMessage()


def test_a_level_that_is_off_costs_no_record(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "ensue")
    log_signal(ConsumerResumed(consumer="c"))
    assert caplog.records == []


def test_a_signal_is_a_value() -> None:
    assert ConsumerTripped(consumer="c", reason="R") == ConsumerTripped(consumer="c", reason="R")
    with pytest.raises(AttributeError):
        ConsumerTripped(consumer="c", reason="R").reason = "S"  # type: ignore[misc]
