"""Patterns on a Flink cluster: a portable pattern as Flink SQL, and what submits it with Kafka on both sides.

    query = to_flink(Unpaid)
    print(query.select("orders"), *query.assumptions, sep="\\n")
    job = await submit(Unpaid, gateway="http://flink:8083", source=Topic(...), target=Topic(...), world=RealWorld())

`to_flink` refuses what has no form there that provably finds the same matches: `NotPortable`. See docs/flink.md.
"""

from __future__ import annotations

from ensue.patterns.flink.gateway import Session
from ensue.patterns.flink.kafka import Topic, script, submit
from ensue.patterns.flink.sql import FlinkQuery, to_flink

__all__ = ["FlinkQuery", "Session", "Topic", "script", "submit", "to_flink"]
