"""Quix Streams: the sum of each key's values in windows of five minutes, in one process. Its own process for each measurement.

Quix reads from Kafka alone. Here it is spared Kafka: its own compiled dataframe is called with one message after another, as its
application does with what it polled, with its state of RocksDB and without changelogs, and nothing is ever committed. So it does
less than it would for its users. It needs some of what is private there.
"""
# mypy: disable-error-code="untyped-decorator,no-untyped-call"

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from contextvars import copy_context
from typing import Any

from bench.pattern_data import WINDOW, Columns, columns, digest, name_of_window

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from quixstreams import Application
    from quixstreams.context import set_message_context
    from quixstreams.models import MessageContext
    from quixstreams.models.topics import Topic, TopicConfig

__all__ = ["main"]

Found = list[tuple[str, int, float]]
_UNLIMITED = {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}


def main(count: int, rounds: int) -> None:
    of = columns("windows", count)
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            seconds, found = _round(of, folder)
        names = [name_of_window(*one) for one in found]
        print(
            json.dumps({"round": number, "per_second": count / seconds, "matches": len(names), "digest": digest(names)})
        )


def _round(of: Columns, folder: str) -> tuple[float, Found]:
    application: Any = Application(
        broker_address="127.0.0.1:1",  # never asked
        consumer_group="bench",
        auto_create_topics=False,
        use_changelog_topics=False,
        loglevel=None,
        state_dir=folder,
    )
    found: Found = []
    run = _windows(application, found)
    messages = [({"value": value}, key, at) for key, value, at in zip(of.key, of.value, of.time, strict=True)]
    # Windows are closed by a later event of any key (which was quicker than one of the same key), so one more comes at the end.
    messages.append(({"value": 0.0}, of.key[0], of.time[-1] + 2 * WINDOW))
    began = time.perf_counter()
    for offset, (value, key, at) in enumerate(messages):
        context = copy_context()
        context.run(
            set_message_context,
            MessageContext(topic="events", partition=0, offset=offset, size=0, leader_epoch=0),
        )
        context.run(run, value, key, at, None)
    return time.perf_counter() - began, found


def _windows(application: Any, found: Found) -> Any:
    """The dataframe, compiled."""
    topic = Topic("events", value_deserializer="json")
    topic.broker_config = TopicConfig(num_partitions=1, replication_factor=1, extra_config=_UNLIMITED)
    frame = application.dataframe(topic).apply(lambda row: row["value"])
    windows = frame.tumbling_window(WINDOW).sum().final(closing_strategy="partition")
    windows.update(
        lambda window, key, at, headers: found.append((key, window["start"], window["value"])), metadata=True
    )
    composed = application._dataframe_registry.compose_all()
    for stores in application._state_manager.stores.values():
        for store in stores.values():
            store.assign_partition(0)
    application._processing_context.init_checkpoint()
    return composed["events"]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
