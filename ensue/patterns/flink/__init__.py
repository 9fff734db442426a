"""Patterns on a Flink cluster: a portable pattern as Flink SQL, and what submits it. See docs/flink.md."""

from __future__ import annotations

__all__: list[str] = []
